"""Outputs stored where somebody else's files lie, where others store, and where a process died."""

import asyncio
import hashlib
import itertools
import json
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import LOCAL_SANDBOX
from comfyline.errors import LeadsOutside, NameTaken, Spoilt, Unreachable
from comfyline.job import CheckedJob, Job, OnConflict, Placement
from comfyline.ledger.queries import Selection
from comfyline.operations.overwrite import (
    ExistingFile,
    KnownOutput,
    Ownership,
    ownership,
    store_outputs,
)
from comfyline.plan.reuse import claimed
from comfyline.progress import Event, Note, observed_by
from comfyline.services import Services
from comfyline.storage.place import folder_path, join
from comfyline.storage.sidecar import Sidecar, SidecarOutput
from tests.operations.conftest import Paid, in_each, pay

OFFICE = "https://model-api.example"


async def paid(
    services: Services,
    folder: str,
    *,
    item: str = "cat",
    prompt: str = "a hat",
    contents: tuple[bytes, ...] = (b"picture",),
    on_conflict: OnConflict = "version",
    name: str = "{{ item_name }}.{{ ext }}",
    root: str = "",
) -> Paid:
    placement = Placement(folder, name, {"item_name": item}, on_conflict, root)
    job = Job("p", item, "edit", "acme/painter", {"prompt": prompt}, placement)
    key = hashlib.sha256(f"{folder} {item} {prompt}".encode()).hexdigest()
    return await pay(services, CheckedJob(job, key, (), 0.1), *contents)


async def store(job: Paid) -> list[str]:
    """The names under which its outputs are stored now."""
    stored = await store_outputs(job.checked, job.submission, job.fetched, job.services)
    await job.services.ledger.persisted(job.submission.attempt_id, stored)
    return [one.uri.rpartition("/")[2] for one in stored]


async def found(job: Paid) -> list[str]:
    """The names that the next run finds."""
    outputs = claimed(job.checked.job, await job.attempt())
    return [one.uri.rpartition("/")[2] for one in outputs]


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


def notes(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Note)]


@in_each("folder", "bucket")
@pytest.mark.parametrize(
    ("died", "name"), [("before the sidecar", "cat-2.png"), ("before the ledger", "cat.png")]
)
async def test_what_a_dead_process_stored_is_recognised_and_not_stored_twice(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch, died: str, name: str
) -> None:
    if name != "cat.png":
        await leave(services, out, "cat.png")
    job = await paid(services, out)
    place = type(services.places.of_folder(out))

    async def die(*_: object, **__: object) -> None:
        raise Unreachable("killed")

    with monkeypatch.context() as dying:
        target = (place, "put_text") if "sidecar" in died else (services.ledger, "persisted")
        dying.setattr(*target, die)
        with pytest.raises(Unreachable, match="killed"):
            await store(job)

    assert await store(job) == [name]
    there = await lying(services, out)
    assert set(there) == {"cat.png", name, f"{name}.json"}
    assert there[name] == b"picture"
    assert json.loads(there[f"{name}.json"])["job"] == job.checked.key


@in_each("folder", "bucket")
async def test_a_file_of_somebody_elses_stays_and_ours_becomes_a_version_which_is_said(
    services: Services, out: str
) -> None:
    for number in ("", "-2"):
        await leave(services, out, f"cat{number}.png", f"theirs{number}")
    job = await paid(services, out)
    told: list[Event] = []

    with observed_by(told.append):
        assert await store(job) == ["cat-3.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"theirs", b"theirs-2")
    assert there["cat-3.png"] == b"picture"
    assert json.loads(there["cat-3.png.json"])["output"]["name"] == "cat-3.png"
    [note] = notes(told)
    assert "cat.png was not written by comfyline: the output is stored as" in note
    assert await found(job) == await store(job) == ["cat-3.png"]
    refreshed = await paid(services, out, contents=(b"another picture",))
    assert await store(refreshed) == await found(refreshed) == ["cat-3.png"]


async def test_a_file_of_somebody_elses_is_replaced_or_kept_where_the_pipeline_says_so(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    await leave(services, out, "cat.png.json", "[1, 2]")
    keeps = await paid(services, out, prompt="keeps", on_conflict="keep")
    replaces = await paid(services, out, on_conflict="replace")

    with pytest.raises(NameTaken, match=r"cat\.png was not written by comfyline"):
        await store(keeps)
    assert await lying(services, out) == {"cat.png": b"theirs", "cat.png.json": b"[1, 2]"}

    assert await store(replaces) == ["cat.png"]
    there = await lying(services, out)
    assert there["cat.png"] == b"picture"
    assert json.loads(there["cat.png.json"])["job"] == replaces.checked.key
    assert len(there) == 2


async def test_a_sidecars_name_that_is_somebody_elses_is_a_conflict_as_well(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png.json", '{"shapes": []}')
    job = await paid(services, out)

    assert await store(job) == ["cat-2.png"]
    assert (await lying(services, out))["cat.png.json"] == b'{"shapes": []}'
    # The result of who keeps everything waits for its name.
    keeps = await paid(services, out, prompt="keeps", on_conflict="keep")
    with pytest.raises(NameTaken):
        await store(keeps)
    remove(out, "cat.png.json")
    assert await store(keeps) == ["cat.png"]


async def test_a_sidecar_alone_is_the_jobs_own_or_a_colleagues(
    services: Services, others: Services, out: str
) -> None:
    for item in ("cat", "dog"):
        await store(await paid(services, out, item=item))
        remove(out, f"{item}.png")

    own = await paid(others, out, item="cat")
    other = await paid(others, out, item="dog", prompt="a scarf")

    assert (await store(own), await store(other)) == (["cat.png"], ["dog-2.png"])
    sidecar = json.loads((await lying(services, out))["cat.png.json"])
    assert sidecar["request_id"] == own.submission.request_id


async def test_a_changed_prompt_takes_the_name_and_what_was_paid_before_moves_beside_it(
    services: Services, out: str
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await store(hat)
    before = json.loads((await lying(services, out))["cat.png.json"])
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))
    told: list[Event] = []

    with observed_by(told.append):
        assert await store(scarf) == ["cat.png"]

    there = await lying(services, out)
    before["output"]["name"] = "cat-2.png"
    assert json.loads(there["cat-2.png.json"]) == before
    [note] = notes(told)
    assert "cat.png was another output that was paid for: it is" in note
    # Both count as there, each for its own pipeline, so that the next night nothing moves.
    assert (await found(hat), await found(scarf)) == (["cat-2.png"], ["cat.png"])


async def test_a_refresh_moves_every_earlier_attempt_beside_the_newest(
    services: Services, out: str
) -> None:
    for number in range(3):
        newest = await paid(services, out, contents=(f"picture {number}".encode(),))
        assert await store(newest) == ["cat.png"]

    there = await lying(services, out)
    recorded = await services.ledger.list(Selection(key_prefix=newest.checked.key))
    names = [Path(one.outputs[0].uri).name for one in recorded]
    assert names == ["cat.png", "cat-3.png", "cat-2.png"]
    assert [there[name] for name in names] == [b"picture 2", b"picture 1", b"picture 0"]
    for attempt, name in zip(recorded, names, strict=True):
        assert json.loads(there[f"{name}.json"])["request_id"] == attempt.request_id


_STEPS = ("copied", "its sidecar", "the ledger follows", "the name is taken", "the new sidecar")


@in_each("folder", "bucket")
@pytest.mark.parametrize("died", range(len(_STEPS)), ids=_STEPS)
async def test_whoever_dies_while_a_paid_file_moves_aside_leaves_it_with_a_name(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch, died: int
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await store(hat)
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
            await store(scarf)

    # At this very moment, and for the pipeline that the file belongs to.
    [name] = await found(hat)
    assert (await lying(services, out))[name] == b"picture"

    assert await store(scarf) == ["cat.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"scarf", b"picture")
    for job, name in ((scarf, "cat.png"), (hat, "cat-2.png")):
        assert await found(job) == [name]
        sidecar = json.loads(there[f"{name}.json"])
        assert (sidecar["job"], sidecar["output"]["name"]) == (job.checked.key, name)
    assert len(there) == 4


async def test_replace_does_not_destroy_what_was_paid_for_under_another_ledger(
    services: Services, others: Services, out: str
) -> None:
    theirs = await paid(services, out, prompt="a hat")
    await store(theirs)
    mine = await paid(others, out, prompt="a scarf", contents=(b"scarf",), on_conflict="replace")

    assert await store(mine) == ["cat.png"]

    there = await lying(services, out)
    assert (there["cat.png"], there["cat-2.png"]) == (b"scarf", b"picture")
    assert json.loads(there["cat-2.png.json"])["request_id"] == theirs.submission.request_id


async def test_what_moves_aside_passes_over_names_that_are_taken(
    services: Services, out: str
) -> None:
    hat = await paid(services, out, prompt="a hat")
    await store(hat)
    await leave(services, out, "cat-2.png", "theirs")
    await store(await paid(services, out, item="cat-3", contents=(b"third",)))
    scarf = await paid(services, out, prompt="a scarf", contents=(b"scarf",))

    assert await store(scarf) == ["cat.png"]

    there = await lying(services, out)
    assert [there[f"cat-{number}.png"] for number in (2, 3, 4)] == [b"theirs", b"third", b"picture"]
    assert await found(hat) == ["cat-4.png"]


@pytest.mark.parametrize(
    ("there", "comes", "is_whose"),
    [
        (OFFICE, OFFICE, Ownership.FORMER),
        (None, None, Ownership.FORMER),
        (LOCAL_SANDBOX, LOCAL_SANDBOX, Ownership.FORMER),
        # What cost nothing is lost for what did, and moves nothing that did.
        (LOCAL_SANDBOX, OFFICE, Ownership.OURS),
        (OFFICE, LOCAL_SANDBOX, Ownership.OTHERS),
    ],
)
def test_what_the_sandbox_made_gives_way_to_what_was_paid_for(
    there: str | None, comes: str | None, is_whose: Ownership
) -> None:
    output = SidecarOutput(sha256="a" * 64, bytes=7)
    sidecar = Sidecar(job="key", request_id="before", origin=there, output=output)
    arriving = KnownOutput(SidecarOutput(sha256="b" * 64, bytes=7), "key", "now", comes)
    seen = ExistingFile("file:///cat.png", exists=True, sha256="a" * 64, sidecar=sidecar)

    assert ownership(seen, seen.uri, arriving) is is_whose


@in_each("folder", "bucket")
async def test_bytes_that_changed_after_they_were_fetched_are_not_stored(
    services: Services, out: str
) -> None:
    job = await paid(services, out)
    path = Path(job.fetched.files[0].path)
    await asyncio.to_thread(path.write_bytes, bytes(7))

    with pytest.raises(Spoilt, match="has changed on the disk of this machine"):
        await store(job)

    assert await lying(services, out) == {}
    assert not await asyncio.to_thread(path.exists)


async def test_a_version_is_never_taken_by_another_whose_name_it_is(
    services: Services, out: str
) -> None:
    await leave(services, out, "cat.png")
    cat = await paid(services, out)
    other = await paid(services, out, item="cat-2", contents=(b"other",))
    two = await paid(
        services,
        out,
        prompt="two",
        contents=(b"first", b"second"),
        name="cat{{ '-3' if index else '' }}.{{ ext }}",
    )

    assert await store(cat) == ["cat-2.png"]
    assert await store(other) == ["cat-2-2.png"]
    assert await store(two) == ["cat-4.png", "cat-3.png"]

    assert (await lying(services, out))["cat-2.png"] == b"picture"
    assert (await found(cat), await found(other)) == (["cat-2.png"], ["cat-2-2.png"])


async def test_files_are_known_by_their_sidecars_and_not_when_somebody_touched_them_up(
    services: Services, others: Services, out: str
) -> None:
    for item in ("cat", "dog"):
        await store(await paid(services, out, item=item))
    await leave(services, out, "dog.png", "touched up by somebody")

    cat = await paid(others, out, item="cat", contents=(b"new cat",))
    dog = await paid(others, out, item="dog", contents=(b"new dog",))
    scarf = await paid(services, out, item="dog", prompt="a scarf", contents=(b"scarf",))

    assert await store(cat) == ["cat.png"]
    assert await store(dog) == ["dog-2.png"]
    assert await store(scarf) == ["dog-3.png"]
    there = await lying(services, out)
    assert there["cat.png"] == b"new cat"
    assert there["dog.png"] == b"touched up by somebody"


async def test_two_who_store_under_the_same_new_name_lose_nothing(
    services: Services, others: Services, out: str
) -> None:
    mine = await paid(services, out, prompt="mine", contents=(b"mine",))
    theirs = await paid(others, out, prompt="theirs", contents=(b"theirs",))

    names = await asyncio.gather(store(mine), store(theirs))

    there = await lying(services, out)
    assert sorted(names) == [["cat-2.png"], ["cat.png"]]
    for job, content, [name] in zip((mine, theirs), (b"mine", b"theirs"), names, strict=True):
        assert there[name] == content
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
        await store(job)

    assert list(outside.iterdir()) == []


async def test_the_own_name_of_one_job_is_no_version_of_anothers_with_the_same_result(
    services: Services, out: str
) -> None:
    twin = await paid(services, out, item="cat-2")
    await store(twin)
    placement = replace(twin.checked.job.placement, scope={"item_name": "cat"})

    assert claimed(replace(twin.checked.job, placement=placement), await twin.attempt()) == ()
    assert await found(twin) == ["cat-2.png"]
