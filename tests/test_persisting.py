"""Outputs stored where somebody else's files lie, where others store, and where a process died."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from comfyline.account import Account
from comfyline.errors import LeadsOutside, NameTaken, Unreachable
from comfyline.job import CheckedJob, FetchedFile, Job, JobState, OnConflict, Placement
from comfyline.ledger.budget import Limits
from comfyline.ledger.claiming import Claimed
from comfyline.planning.survey import claimed
from comfyline.progress import Event, Note, observed_by
from comfyline.run import CostLimits, FetchedOutputs, Run, Submission
from comfyline.services import Services, now, open_services
from comfyline.settings import RuncomfySettings, Secret, Settings, StorageSettings
from comfyline.stack.control import StackAddresses
from comfyline.storage.place import folder_path, join
from tasks.failure import unwrap
from tasks.persist import persist
from tests.sftp import Sftp

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
def out(request: pytest.FixtureRequest, tmp_path: Path, sftp: Sftp) -> str:
    """A folder that no other test uses, in the kind of storage that the test asks for."""
    own = secrets.token_hex(6)
    return {
        "folder": str(tmp_path / "out"),
        "bucket": f"s3://comfyline/persisting/{own}",
        "sftp": f"{sftp.base}/{own}",
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


@in_each("folder", "bucket", "sftp")
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


@in_each("folder", "bucket", "sftp")
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


@in_each("folder", "sftp")
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


async def test_a_changed_prompt_takes_the_name_of_the_job_before_it(
    services: Services, out: str
) -> None:
    assert await (await paid(services, out, prompt="a hat")).store() == ["cat.png"]
    again = await paid(services, out, prompt="a scarf", contents=(b"scarf",))

    assert await again.store() == ["cat.png"]

    assert (await lying(services, out))["cat.png"] == b"scarf"


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


@in_each("folder", "sftp")
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
