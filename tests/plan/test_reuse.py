import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from comfyline.errors import GenerationFailed, Unreachable
from comfyline.job import FileInfo, Job, JobState, StoredOutput
from comfyline.ledger.claims import Claimed
from comfyline.models.entry import ModelEntry
from comfyline.pipeline.output_names import output_uris
from comfyline.plan.explain import reasons
from comfyline.plan.reuse import Preflight, estimate, find_existing, folder_of
from comfyline.progress import Event, Note, observed_by
from comfyline.run import Run
from comfyline.services import Services
from comfyline.storage.inputs import read_file
from comfyline.storage.place import join, local_path
from tests.media.clips import picture
from tests.plan.conftest import CAT, LIMITS, MODEL, checked, counted, job, run


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, folder: str) -> str:
    """A folder of each kind of storage, in which nothing is."""
    return folder if request.param == "folder" else f"s3://comfyline/reuse{folder}"


async def submitted(services: Services, one: Job) -> int:
    """An attempt that RunComfy has."""
    claim = await services.ledger.claim(
        await checked(one, services), run_id="first", refresh=False, limits=LIMITS
    )
    assert isinstance(claim, Claimed)
    await services.ledger.accepted(claim.attempt_id, f"request-{claim.attempt_id}")
    return claim.attempt_id


async def persisted(services: Services, one: Job, outputs: int = 1) -> Sequence[StoredOutput]:
    """A job's outputs, made and stored by an earlier run."""
    attempt_id = await submitted(services, one)
    await services.ledger.completed(attempt_id, 0.5)
    sha256 = hashlib.sha256(b"made").hexdigest()
    bare = [StoredOutput(index, "", sha256, 4, "image/png") for index in range(outputs)]
    uris = output_uris(one.placement, bare)
    stored = [replace(output, uri=uri) for output, uri in zip(bare, uris, strict=True)]
    for output in stored:
        await services.places.of(output.uri).put_text("made", output.uri, "image/png")
    await services.ledger.persisted(attempt_id, stored)
    return stored


async def remove(services: Services, uri: str) -> None:
    if uri.startswith("s3://"):
        await services.places.bucket.remove(uri)
    else:
        local_path(uri).unlink()


async def why(existing: Preflight, services: Services, of: Run | None = None) -> list[str]:
    return await reasons(existing, {}, of or run(), services)


async def test_a_job_whose_outputs_are_all_there_is_reused(services: Services, place: str) -> None:
    stored = await persisted(services, job(place), outputs=2)

    [outcome] = (await find_existing([job(place)], run(), services)).there

    assert outcome.state is JobState.PERSISTED
    assert outcome.reused
    assert outcome.outputs == tuple(stored)
    assert (outcome.cost_usd, outcome.request_id) == (0.5, "request-1")


@pytest.mark.parametrize("damage", ["missing", "shorter", "folder"])
async def test_an_output_that_is_not_what_was_stored_is_not_reused(
    services: Services, folder: str, damage: str
) -> None:
    stored = await persisted(services, job(folder), outputs=2)
    path = local_path(stored[1].uri)
    path.unlink()
    if damage == "shorter":
        path.write_text("mad")
    elif damage == "folder":
        path.mkdir()

    existing = await find_existing([job(folder)], run(), services)

    assert counted(existing) == (0, 1)
    assert await why(existing, services) == ["output missing"]


async def test_changed_bytes_are_noticed_when_they_are_to_be_verified(
    services: Services, place: str
) -> None:
    [stored] = await persisted(services, job(place))
    assert counted(await find_existing([job(place)], run(verify=True), services)) == (1, 0)

    await services.places.of(stored.uri).put_text("mode", stored.uri, "image/png")

    assert counted(await find_existing([job(place)], run(), services)) == (1, 0)
    assert counted(await find_existing([job(place)], run(verify=True), services)) == (0, 1)


@pytest.mark.parametrize(("known", "gone", "is_away"), [(6, 4, True), (6, 3, False), (4, 4, False)])
async def test_a_folder_of_which_most_is_gone_is_out_of_reach(
    services: Services, folder: str, known: int, gone: int, *, is_away: bool
) -> None:
    jobs = [job(folder, str(number)) for number in range(known)]
    for number, one in enumerate(jobs):
        [stored] = await persisted(services, one)
        if number < gone:
            await remove(services, stored.uri)

    existing = await find_existing(jobs, run(), services)

    assert counted(existing) == (known - gone, gone)
    assert list(existing.away) == ([folder_of(jobs[0])] if is_away else [])
    assert (await find_existing(jobs, run(verify=True), services)).away == {}
    reason = "its folder cannot be reached" if is_away else "output missing"
    assert await why(existing, services) == [reason] * gone


async def test_what_expired_after_it_was_stored_counts_as_there_when_it_is(
    services: Services, folder: str
) -> None:
    [stored] = await persisted(services, job(folder))
    with sqlite3.connect(
        services.settings.ledger_url.get_secret_value().removeprefix("sqlite:///")
    ) as ledger:
        ledger.execute("UPDATE attempts SET state = 'expired'")
    assert counted(await find_existing([job(folder)], run(), services)) == (1, 0)

    await remove(services, stored.uri)

    assert counted(await find_existing([job(folder)], run(), services)) == (0, 1)


async def test_only_what_was_paid_for_under_the_jobs_own_name_is_reused(
    services: Services, folder: str
) -> None:
    await persisted(services, job(folder))
    uri = join(folder, "dog-0.png")
    await services.places.of(uri).put_text("made", uri, "image/png")
    others = [job(f"{folder}-2", pipeline="q"), job(folder, "dog")]

    existing = await find_existing([job(folder), *others], run(), services)

    assert [outcome.job.item for outcome in existing.there] == ["cat"]
    assert [one for one, _ in existing.to_make] == others
    assert await why(existing, services) == ["there under another name", "new"]


async def test_a_refresh_makes_what_is_there_and_says_so(services: Services, folder: str) -> None:
    await persisted(services, job(folder))
    again = run(refresh=True)

    existing = await find_existing([job(folder)], again, services)

    assert counted(existing) == (0, 1)
    assert await why(existing, services, again) == ["refresh"]
    its_own = await find_existing([job(folder)], run("first", refresh=True), services)
    assert counted(its_own) == (1, 0)


async def test_each_job_to_be_made_has_its_reason_in_the_order_of_the_plan(
    services: Services, folder: str
) -> None:
    await submitted(services, job(folder, "running"))
    failed = await submitted(services, job(folder, "failed"))
    await services.ledger.ended(failed, JobState.FAILED, GenerationFailed("no"))
    lost = await submitted(services, job(folder, "lost"))
    await services.ledger.given_up(lost)
    await persisted(services, job(folder, "there"))
    jobs = [job(folder, item) for item in ("running", "failed", "there", "wrong", "lost", "new")]
    jobs[3] = job(folder, "wrong", image_urls=["none.jpg"])
    jobs.append(replace(job(folder, "no model"), model_id="acme/unknown"))

    existing = await find_existing(jobs, run(), services)

    assert list(
        zip([one.item for one, _ in existing.to_make], await why(existing, services), strict=True)
    ) == [
        ("running", "paid for, to be collected"),
        ("failed", "to be tried again"),
        ("wrong", "with mistakes"),
        ("lost", "given up"),
        ("new", "new"),
        ("no model", "with mistakes"),
    ]


async def test_looking_writes_nothing_and_an_unknown_price_is_not_free(
    services: Services, folder: str
) -> None:
    existing = await find_existing([job(folder)], run(), services)

    assert list(await services.ledger.list()) == []
    assert await services.places.of_folder(folder).names_in(folder) == {}
    assert await estimate(existing, run(), services) is None


async def test_storage_that_cannot_be_asked_is_no_missing_output(
    services: Services, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"s3://comfyline/away{folder}"
    await persisted(services, job(place))

    async def away(_uri: str) -> int:
        raise Unreachable("away")

    monkeypatch.setattr(services.places.bucket, "size", away)
    with pytest.raises(Unreachable):
        await find_existing([job(place)], run(), services)


async def test_each_file_is_read_once_and_each_model_asked_for_once_for_many_jobs(
    services: Services, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    entry = services.catalogue.entry

    async def counted_entry(model_id: str) -> ModelEntry:
        asked.append(model_id)
        return await entry(model_id)

    def counted_read(path: str) -> tuple[FileInfo, str]:
        asked.append(path)
        return read_file(path)

    monkeypatch.setattr(services.catalogue, "entry", counted_entry)
    monkeypatch.setattr("comfyline.storage.inputs.read_file", counted_read)

    jobs = [job(folder, str(number)) for number in range(200)]
    existing = await find_existing(jobs, run(), services)

    assert counted(existing) == (0, 200)
    assert asked == [MODEL, str(CAT)]


async def test_every_mistake_of_every_job_is_known_at_once(
    services: Services, folder: str, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(picture("JPEG", orientation=6))
    jobs = [
        job(folder, "a", promt="x"),
        job(folder, "b", promt="x"),
        replace(job(folder, "c"), model_id="acme/unknown"),
        job(folder, "fine", image_urls=[str(turned)]),
    ]
    told: list[Event] = []

    with observed_by(told.append):
        existing = await find_existing(jobs, run(), services)

    said = [str(problem) for problem in existing.mistakes]
    assert [one is None for _, one in existing.to_make] == [True] * 3 + [False]
    [of_two, of_one] = said
    assert of_two.startswith("p.yaml:5:3: promt: the model has no such field")
    assert "acme/unknown" in of_one
    note = f"{turned}: rotated by its EXIF data, which RunComfy may ignore"
    assert existing.notes == (note,)
    assert told == [Note(note)]
