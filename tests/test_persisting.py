"""Outputs stored where somebody else's files lie, where others store, and where a process died."""

import asyncio
import hashlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.config.settings import RuncomfySettings, Secret, Settings, StorageSettings
from comfyline.errors import LeadsOutside, NameTaken, Spoilt, Unreachable
from comfyline.job import CheckedJob, FetchedFile, Job, JobState, OnConflict, Placement
from comfyline.ledger.claims import Claimed, Limits
from comfyline.ledger.queries import Selection
from comfyline.operations.overwrite import Arriving, Lying, Whose, whose
from comfyline.plan.reuse import claimed
from comfyline.progress import Event, Note, observed_by
from comfyline.run import CostLimits, FetchedOutputs, Run, Submission
from comfyline.services import Services, now, open_services
from comfyline.stack.stack import StackAddresses
from comfyline.storage.place import folder_path, join
from comfyline.storage.sidecars import Sidecar, SidecarOutput
from tasks.failure import unwrap
from tasks.persist import persist

LIMITS = Limits(in_flight=100, max_cost_usd=None)


@pytest.fixture(scope="module")
async def services(
    tmp_path_factory: pytest.TempPathFactory, storage: StackAddresses
) -> AsyncIterator[Services]:
    async with open_services(settings(tmp_path_factory.mktemp("one"), storage)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def others(
    tmp_path_factory: pytest.TempPathFactory, storage: StackAddresses
) -> AsyncIterator[Services]:
    """The same storage, with a ledger that knows nothing of what `services` did."""
    async with open_services(settings(tmp_path_factory.mktemp("other"), storage)) as opened:
        yield opened


def settings(directory: Path, storage: StackAddresses) -> Settings:
    keys = storage.storage_credentials
    assert keys is not None
    return Settings(
        profile="test",
        home=directory / "home",
        model_directories=(),
        runcomfy=RuncomfySettings(
            "http://127.0.0.1:9", Secret("token"), (), 32, 5, 0, Account("http://127.0.0.1:9")
        ),
        storage=StorageSettings(
            "s3://comfyline/uploads",
            storage.storage_endpoint,
            Secret(keys.access_key_id),
            Secret(keys.secret_access_key),
            60,
        ),
        ledger_url=Secret(f"sqlite:///{directory}/ledger.sqlite3"),
    )


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that no other test uses, in the kind of storage that the test asks for."""
    own = secrets.token_hex(6)
    return {
        "folder": str(tmp_path / "out"),
        "bucket": f"s3://comfyline/persisting/{own}",
    }[getattr(request, "param", "folder")]


def in_each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("out", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _no_prefect() -> Iterator[None]:
    with disable_run_logger():
        yield


@dataclass(frozen=True)
class Paid:
    """A job whose result is paid for and fetched, and not stored yet."""

    checked: CheckedJob
    submission: Submission
    fetched: FetchedOutputs
    services: Services

    async def store(self) -> list[str]:
        """The names under which its outputs are stored now."""
        run = Run(id="r", pipeline="p", in_flight=1, timeout=1, costs=CostLimits(), refresh=False)
        ended = persist.fn(self.checked, self.submission, self.fetched, run, self.services)
        return [one.uri.rpartition("/")[2] for one in await unwrap(await ended)]

    async def found(self) -> list[str]:
        """The names that the next run finds."""
        known = await self.services.ledger.find([self.checked.key])
        attempt = known[self.checked.key]
        return [one.uri.rpartition("/")[2] for one in claimed(self.checked.job, attempt)]


async def paid(
    services: Services,
    folder: str,
    *,
    item: str = "cat",
    prompt: str = "a hat",
    contents: tuple[bytes, ...] = (b"picture",),
    on_conflict: OnConflict = "version",
    root: str = "",
) -> Paid:
    placement = Placement(
        folder, "{{ item_name }}.{{ ext }}", {"item_name": item}, on_conflict, root
    )
    job = Job("p", item, "edit", "acme/painter", {"prompt": prompt}, placement)
    key = hashlib.sha256(f"{folder} {item} {prompt}".encode()).hexdigest()
    checked = CheckedJob(job, key, (), 0.1)
    claim = await services.ledger.claim(
        checked, run_id=secrets.token_hex(4), refresh=True, limits=LIMITS
    )
    assert isinstance(claim, Claimed)
    request = f"request-{secrets.token_hex(4)}"
    await services.ledger.accepted(claim.attempt_id, request)
    await services.ledger.completed(claim.attempt_id, 0.1)
    work = services.work_directory(request)
    work.mkdir(parents=True)
    files = []
    for index, content in enumerate(contents):
        path = work / f"kept-{index}"
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(FetchedFile(index, str(path), sha256, len(content), "image/png"))
    submission = Submission(claim.attempt_id, 1, JobState.COMPLETED, request, now())
    # What is stored clears the work folder; these tests store some results again.
    kept = tuple(replace(file, path=str(_kept(Path(file.path)))) for file in files)
    return Paid(checked, submission, FetchedOutputs(kept), services)


def _kept(path: Path) -> Path:
    copy = path.parents[2] / f"{path.parent.name}-{path.name}"
    return path.rename(copy)


async def lying(services: Services, folder: str) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    place = services.places.of_folder(folder)
    async with aclosing(place.files_in(folder)) as listed:
        uris = [one.uri async for one in listed]
    return {
        uri.rpartition("/")[2]: b"".join([chunk async for chunk in place.read(uri)]) for uri in uris
    }


async def leave(services: Services, folder: str, name: str, content: str = "theirs") -> None:
    """Puts a file of somebody else's there."""
    await services.places.of_folder(folder).put_text(content, join(folder, name), "image/png")


def remove(folder: str, name: str) -> None:
    (folder_path(folder) / name).unlink()


def zero(file: FetchedFile) -> None:
    """What a disk may do: the same size, other bytes."""
    Path(file.path).write_bytes(bytes(file.bytes))


def left_by(services: Services) -> set[str]:
    return {str(path) for path in services.work.parent.rglob("*")}


@in_each("folder", "bucket")
async def test_an_output_gets_its_name_and_its_sidecar(services: Services, out: str) -> None:
    job = await paid(services, out)

    assert await job.store() == ["cat.png"]

    there = await lying(services, out)
    assert there["cat.png"] == b"picture"
    assert json.loads(there["cat.png.json"])["job"] == job.checked.key
    assert len(there) == 2
    assert await job.found() == ["cat.png"]


@in_each("folder", "bucket")
@pytest.mark.parametrize("died", ["before the sidecar", "before the ledger"])
@pytest.mark.parametrize("first", ["nothing", "a file of somebody else's"])
async def test_what_a_dead_process_stored_is_recognised_and_not_stored_twice(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch, died: str, first: str
) -> None:
    if first != "nothing":
        await leave(services, out, "cat.png")
    job = await paid(services, out)
    with monkeypatch.context() as dying:
        place = type(services.places.of_folder(out))
        target, name = (place, "put_text") if "sidecar" in died else (services.ledger, "persisted")

        async def die(*_: object, **__: object) -> None:
            raise Unreachable("killed")

        dying.setattr(target, name, die)
        with pytest.raises(Unreachable, match="killed"):
            await job.store()

    name = "cat.png" if first == "nothing" else "cat-2.png"
    assert await job.store() == [name]
    assert set(await lying(services, out)) - {"cat.png"} == {name, f"{name}.json"} - {"cat.png"}


@in_each("folder", "bucket")
async def test_a_file_of_somebody_elses_stays_and_ours_becomes_a_version_which_is_said(
    services: Services, out: str
) -> None:
    for number in ("", "-2"):
        await leave(services, out, f"cat{number}.png", f"theirs{number}")
    job = await paid(services, out)
    told: list[Event] = []

    with observed_by(told.append):
        assert await job.store() == ["cat-3.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"theirs", b"theirs-2")
    assert there["cat-3.png"] == b"picture"
    assert json.loads(there["cat-3.png.json"])["output"]["name"] == "cat-3.png"
    [note] = [event.text for event in told if isinstance(event, Note)]
    assert "cat.png is a file of somebody else's: the output is stored as" in note

    assert await job.found() == ["cat-3.png"]
    assert await job.store() == ["cat-3.png"]
    refreshed = await paid(services, out, contents=(b"another picture",))
    assert await refreshed.store() == ["cat-3.png"]
    assert await refreshed.found() == ["cat-3.png"]


@in_each("folder", "bucket")
async def test_a_file_of_somebody_elses_is_replaced_where_the_pipeline_says_so(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    await leave(services, out, "cat.png.json", "[1, 2]")
    job = await paid(services, out, on_conflict="replace")

    assert await job.store() == ["cat.png"]

    there = await lying(services, out)
    assert there["cat.png"] == b"picture"
    assert json.loads(there["cat.png.json"])["job"] == job.checked.key
    assert len(there) == 2


async def test_a_file_that_is_to_be_kept_is_an_error_and_the_result_waits_for_its_name(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    job = await paid(services, out, on_conflict="keep")

    with pytest.raises(NameTaken, match=r"cat\.png is a file of somebody else's") as caught:
        await job.store()

    assert caught.value.request_id == job.submission.request_id
    assert (caught.value.kind, caught.value.exit_code) == ("name-taken", 1)
    assert await lying(services, out) == {"cat.png": b"theirs"}
    attempt = (await services.ledger.find([job.checked.key]))[job.checked.key]
    assert attempt.state is JobState.COMPLETED

    remove(out, "cat.png")
    assert await job.store() == ["cat.png"]


async def test_a_sidecars_name_that_is_somebody_elses_is_a_conflict_as_well(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png.json", '{"shapes": []}')
    job = await paid(services, out)

    assert await job.store() == ["cat-2.png"]

    assert (await lying(services, out))["cat.png.json"] == b'{"shapes": []}'


async def test_a_sidecar_alone_is_the_jobs_own_or_a_colleagues(
    services: Services, others: Services, out: str
) -> None:
    for item in ("cat", "dog"):
        await (await paid(services, out, item=item)).store()
        remove(out, f"{item}.png")

    own = await paid(others, out, item="cat")
    other = await paid(others, out, item="dog", prompt="a scarf")

    assert (await own.store(), await other.store()) == (["cat.png"], ["dog-2.png"])
    sidecar = json.loads((await lying(services, out))["cat.png.json"])
    assert sidecar["request_id"] == own.submission.request_id


@in_each("folder", "bucket")
async def test_a_changed_prompt_takes_the_name_and_what_was_paid_before_moves_beside_it(
    services: Services, out: str
) -> None:
    hat = await paid(services, out, prompt="a hat")
    assert await hat.store() == ["cat.png"]
    before = json.loads((await lying(services, out))["cat.png.json"])
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))
    told: list[Event] = []

    with observed_by(told.append):
        assert await scarf.store() == ["cat.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"scarf", b"picture")
    before["output"]["name"] = "cat-2.png"
    assert json.loads(there["cat-2.png.json"]) == before
    assert json.loads(there["cat.png.json"])["job"] == scarf.checked.key
    assert len(there) == 4
    [note] = [event.text for event in told if isinstance(event, Note)]
    assert "cat.png is another output that was paid for: it lies as" in note
    # Both count as there, each for its own pipeline, so that the next night nothing moves.
    assert (await hat.found(), await scarf.found()) == (["cat-2.png"], ["cat.png"])


async def test_a_refresh_moves_every_earlier_attempt_beside_the_newest(
    services: Services, out: str
) -> None:
    for number in range(3):
        newest = await paid(services, out, contents=(f"picture {number}".encode(),))
        assert await newest.store() == ["cat.png"]

    there = await lying(services, out)

    pictures = {name: there[name] for name in there if name.endswith(".png")}
    assert pictures == {
        "cat.png": b"picture 2",
        "cat-2.png": b"picture 0",
        "cat-3.png": b"picture 1",
    }
    recorded = await services.ledger.list(Selection(key_prefix=newest.checked.key))
    assert [Path(one.outputs[0].uri).name for one in recorded] == [
        "cat.png",
        "cat-3.png",
        "cat-2.png",
    ]
    for attempt in recorded:
        [output] = attempt.outputs
        sidecar = json.loads(there[f"{Path(output.uri).name}.json"])
        assert sidecar["request_id"] == attempt.request_id


_STEPS = ("copied", "its sidecar", "the ledger follows", "the name is taken", "the new sidecar")


@in_each("folder", "bucket")
@pytest.mark.parametrize("died", range(len(_STEPS)), ids=_STEPS)
async def test_whoever_dies_while_a_paid_file_moves_aside_leaves_it_with_a_name(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch, died: int
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await hat.store()
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))
    place = type(services.places.of_folder(out))
    left = itertools.count(-died)

    def dying(function: Any) -> Any:
        async def done(*args: Any, **more: Any) -> None:
            await function(*args, **more)
            if next(left) == 0:
                raise Unreachable("killed")

        return done

    with monkeypatch.context() as patched:
        for owner, name in ((place, "put"), (place, "put_text"), (services.ledger, "moved")):
            patched.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(Unreachable, match="killed"):
            await scarf.store()

    # At this very moment, and for the pipeline that the file belongs to.
    [name] = await hat.found()
    assert (await lying(services, out))[name] == b"picture"

    assert await scarf.store() == ["cat.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"scarf", b"picture")
    for job, name in ((scarf, "cat.png"), (hat, "cat-2.png")):
        assert await job.found() == [name]
        sidecar = json.loads(there[f"{name}.json"])
        assert (sidecar["job"], sidecar["output"]["name"]) == (job.checked.key, name)
    assert len(there) == 4


async def test_a_paid_file_that_somebody_touched_up_keeps_the_name(
    services: Services, out: str
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await hat.store()
    await leave(services, out, "cat.png", "retouched")
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))

    assert await scarf.store() == ["cat-2.png"]

    assert (await lying(services, out))["cat.png"] == b"retouched"


@in_each("folder", "bucket")
async def test_replace_does_not_destroy_what_was_paid_for_under_another_ledger(
    services: Services, others: Services, out: str
) -> None:
    theirs = await paid(services, out, prompt="a hat")
    await theirs.store()
    mine = await paid(others, out, prompt="a scarf", contents=(b"scarf",), on_conflict="replace")

    assert await mine.store() == ["cat.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"scarf", b"picture")
    assert json.loads(there["cat-2.png.json"])["request_id"] == theirs.submission.request_id


async def test_what_moves_aside_passes_over_names_that_are_taken(
    services: Services, out: str
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await hat.store()
    await leave(services, out, "cat-2.png", "theirs")
    await (await paid(services, out, item="cat-3", contents=(b"third",))).store()
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))

    assert await scarf.store() == ["cat.png"]

    there = await lying(services, out)
    assert [there[f"cat-{number}.png"] for number in (2, 3, 4)] == [b"theirs", b"third", b"picture"]
    assert await hat.found() == ["cat-4.png"]


@pytest.mark.parametrize(
    ("there", "comes", "found"),
    [
        ("https://model-api.example", "https://model-api.example", Whose.FORMER),
        (None, None, Whose.FORMER),
        (LOCAL_SANDBOX, LOCAL_SANDBOX, Whose.FORMER),
        # What cost nothing is lost for what did, and moves nothing that did.
        (LOCAL_SANDBOX, "https://model-api.example", Whose.OURS),
        ("https://model-api.example", LOCAL_SANDBOX, Whose.OTHERS),
    ],
)
def test_what_the_sandbox_made_gives_way_to_what_was_paid_for(
    there: str | None, comes: str | None, found: Whose
) -> None:
    output = SidecarOutput(sha256="a" * 64, bytes=7)
    sidecar = Sidecar(job="key", request_id="before", origin=there, output=output)
    arriving = Arriving("b" * 64, 7, "key", 1, "now", comes)
    seen = Lying(exists=True, sha256="a" * 64, sidecar=sidecar)

    assert whose(seen, "file:///cat.png", "file:///cat.png", arriving, None) is found


@in_each("folder", "bucket")
async def test_bytes_that_changed_after_they_were_fetched_are_not_stored(
    services: Services, out: str
) -> None:
    job = await paid(services, out)
    [file] = job.fetched.files
    zero(file)

    with pytest.raises(Spoilt, match="has changed on this machine's disk") as caught:
        await job.store()

    assert caught.value.request_id == job.submission.request_id
    assert await lying(services, out) == {}
    assert file.path not in left_by(services)
    attempt = (await services.ledger.find([job.checked.key]))[job.checked.key]
    assert (attempt.state, attempt.outputs) == (JobState.COMPLETED, ())


async def test_the_version_of_one_job_is_never_taken_by_another_whose_name_it_is(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    cat = await paid(services, out)
    assert await cat.store() == ["cat-2.png"]
    other = await paid(services, out, item="cat-2", contents=(b"other",))

    assert await other.store() == ["cat-2-2.png"]

    assert (await lying(services, out))["cat-2.png"] == b"picture"
    assert (await cat.found(), await other.found()) == (["cat-2.png"], ["cat-2-2.png"])


async def test_a_version_is_never_the_name_of_another_output_of_the_job(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    job = await paid(services, out, contents=(b"first", b"second"))
    placement = replace(job.checked.job.placement, name="cat{{ '-2' if index else '' }}.{{ ext }}")
    one = replace(job.checked.job, placement=placement)

    names = await replace(job, checked=replace(job.checked, job=one)).store()

    assert names == ["cat-3.png", "cat-2.png"]


async def test_without_its_ledger_comfyline_knows_its_files_by_their_sidecars(
    services: Services, others: Services, out: str
) -> None:
    await (await paid(services, out, item="cat")).store()
    await (await paid(services, out, item="dog")).store()
    await leave(services, out, "dog.png", "touched up by somebody")

    cat = await paid(others, out, item="cat", contents=(b"new cat",))
    dog = await paid(others, out, item="dog", contents=(b"new dog",))
    assert await cat.store() == ["cat.png"]
    assert await dog.store() == ["dog-2.png"]

    there = await lying(services, out)
    assert there["cat.png"] == b"new cat"
    assert there["dog.png"] == b"touched up by somebody"


async def test_two_who_store_under_the_same_new_name_lose_nothing(
    services: Services, others: Services, out: str
) -> None:
    mine = await paid(services, out, prompt="mine", contents=(b"mine",))
    theirs = await paid(others, out, prompt="theirs", contents=(b"theirs",))

    names = await asyncio.gather(mine.store(), theirs.store())

    there = await lying(services, out)
    assert sorted(names) == [["cat-2.png"], ["cat.png"]]
    assert {there["cat.png"], there["cat-2.png"]} == {b"mine", b"theirs"}
    for job, [name] in zip((mine, theirs), names, strict=True):
        assert json.loads(there[f"{name}.json"])["job"] == job.checked.key
    assert len(there) == 4


async def test_a_link_that_leads_out_of_the_folder_of_the_pipeline_stores_nothing(
    services: Services, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/cats").symlink_to(outside)
    job = await paid(services, str(tmp_path / "out/cats"), root=str(tmp_path / "out"))

    with pytest.raises(LeadsOutside, match="symbolic link"):
        await job.store()

    assert list(outside.iterdir()) == []
    attempt = (await services.ledger.find([job.checked.key]))[job.checked.key]
    assert attempt.state is JobState.COMPLETED


async def test_the_own_name_of_one_job_is_no_version_of_anothers_with_the_same_result(
    services: Services, out: str
) -> None:
    twin = await paid(services, out, item="cat-2")
    await twin.store()
    attempt = (await services.ledger.find([twin.checked.key]))[twin.checked.key]
    placement = replace(twin.checked.job.placement, scope={"item_name": "cat"})

    assert claimed(replace(twin.checked.job, placement=placement), attempt) == ()
    assert await twin.found() == ["cat-2.png"]
