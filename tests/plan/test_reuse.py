import hashlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import Account
from comfyline.config.settings import RuncomfySettings, Secret, Settings, StorageSettings
from comfyline.errors import GenerationFailed, Unreachable
from comfyline.job import Job, JobState, Placement, StoredOutput
from comfyline.ledger.claims import Claimed, Limits
from comfyline.models.entry import ModelEntry
from comfyline.pipeline.output_names import output_uris
from comfyline.plan.check import validate_job
from comfyline.plan.explain import reasons
from comfyline.plan.reuse import Preflight, estimate, find_existing, folder_of
from comfyline.progress import Event, Note, observed_by
from comfyline.run import CostLimits, Run
from comfyline.services import Services, open_services
from comfyline.stack.stack import StackAddresses
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.known_files import Stamp
from comfyline.storage.place import join, local_path
from comfyline.storage.reading import look_at_file
from tests.media.clips import picture

CAT = Path(__file__).parents[2] / "configs/samples/cat.jpg"
MODEL = "google/nano-banana/pro/edit"
LIMITS = Limits(in_flight=10_000, max_cost_usd=None)


@pytest.fixture
async def services(tmp_path: Path, storage: StackAddresses) -> AsyncIterator[Services]:
    keys = storage.storage_credentials
    assert keys is not None
    settings = Settings(
        profile="test",
        home=tmp_path / "home",
        model_directories=(Path(__file__).parents[2] / "configs/models",),
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
        ledger_url=Secret(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"),
    )
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def run(run_id: str = "second", *, refresh: bool = False, verify: bool = False) -> Run:
    return Run(
        id=run_id,
        pipeline="p",
        in_flight=4,
        timeout=60,
        costs=CostLimits(),
        refresh=refresh,
        verify=verify,
    )


def job(folder: str, item: str = "cat", pipeline: str = "p", **inputs: Any) -> Job:
    return Job(
        pipeline=pipeline,
        item=item,
        step="edit",
        model_id=MODEL,
        inputs={"prompt": f"a {item}", "image_urls": [str(CAT)]} | inputs,
        placement=Placement(folder, "{{ item_name }}-{{ index }}.{{ ext }}", {"item_name": item}),
        source="p.yaml:5:3",
    )


async def submitted(services: Services, one: Job) -> int:
    """An attempt that RunComfy has."""
    entry = await services.catalogue.entry(one.model_id)
    checked = await validate_job(one, entry, services.origins)
    claim = await services.ledger.claim(checked, run_id="first", refresh=False, limits=LIMITS)
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


async def why(existing: Preflight, services: Services, of: Run | None = None) -> list[str]:
    return await reasons(existing, {}, of or run(), services)


def counted(existing: Preflight) -> tuple[int, int]:
    return len(existing.there), len(existing.to_make)


@pytest.mark.parametrize("place", ["folder", "bucket"])
async def test_a_job_whose_outputs_are_all_there_is_reused(
    services: Services, out: str, place: str
) -> None:
    folder = out if place == "folder" else f"s3://comfyline/find_existing{out}"
    stored = await persisted(services, job(folder), outputs=2)

    [outcome] = (await find_existing([job(folder)], run(), services)).there

    assert outcome.state is JobState.PERSISTED
    assert outcome.reused
    assert outcome.outputs == tuple(stored)
    assert (outcome.cost_usd, outcome.request_id) == (0.5, "request-1")


@pytest.mark.parametrize("damage", ["missing", "shorter", "folder"])
async def test_an_output_that_is_not_what_was_stored_is_not_reused(
    services: Services, out: str, damage: str
) -> None:
    stored = await persisted(services, job(out), outputs=2)
    path = local_path(stored[1].uri)
    path.unlink()
    if damage == "shorter":
        path.write_text("mad")
    elif damage == "folder":
        path.mkdir()

    existing = await find_existing([job(out)], run(), services)

    assert counted(existing) == (0, 1)
    assert await why(existing, services) == ["output missing"]


@pytest.mark.parametrize("place", ["folder", "bucket"])
async def test_changed_bytes_are_noticed_when_they_are_to_be_verified(
    services: Services, out: str, place: str
) -> None:
    folder = out if place == "folder" else f"s3://comfyline/verify{out}"
    [stored] = await persisted(services, job(folder))
    assert counted(await find_existing([job(folder)], run(verify=True), services)) == (1, 0)

    await services.places.of(stored.uri).put_text("mode", stored.uri, "image/png")

    assert counted(await find_existing([job(folder)], run(), services)) == (1, 0)
    assert counted(await find_existing([job(folder)], run(verify=True), services)) == (0, 1)


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize(("known", "gone", "is_away"), [(6, 4, True), (6, 3, False), (4, 4, False)])
async def test_a_folder_of_which_most_is_gone_is_out_of_reach(
    services: Services, out: str, place: str, known: int, gone: int, *, is_away: bool
) -> None:
    folder = out if place == "folder" else f"s3://comfyline/away{out}"
    jobs = [job(folder, str(number)) for number in range(known)]
    for number, one in enumerate(jobs):
        [stored] = await persisted(services, one)
        if number < gone:
            await remove(services, stored.uri)

    existing = await find_existing(jobs, run(), services)

    assert counted(existing) == (known - gone, gone)
    assert list(existing.away) == ([folder_of(jobs[0])] if is_away else [])
    assert (await find_existing(jobs, run(verify=True), services)).away == {}
    reason = "its folder is out of reach" if is_away else "output missing"
    assert await reasons(existing, {}, run(), services) == [reason] * gone


async def test_what_expired_after_it_was_stored_counts_as_there_when_it_is(
    services: Services, out: str
) -> None:
    [stored] = await persisted(services, job(out))
    with sqlite3.connect(services.settings.ledger_url.value.removeprefix("sqlite:///")) as ledger:
        ledger.execute("UPDATE attempts SET state = 'expired'")
    assert counted(await find_existing([job(out)], run(), services)) == (1, 0)

    await remove(services, stored.uri)

    assert counted(await find_existing([job(out)], run(), services)) == (0, 1)


async def remove(services: Services, uri: str) -> None:
    if uri.startswith("s3://"):
        await services.places.bucket.remove(uri)
    else:
        local_path(uri).unlink()


async def test_an_output_under_another_pipelines_name_is_to_be_brought_here(
    services: Services, out: str
) -> None:
    await persisted(services, job(out))
    elsewhere = job(f"{out}-2", pipeline="q")

    existing = await find_existing([job(out), elsewhere], run(), services)

    assert [outcome.job.pipeline for outcome in existing.there] == ["p"]
    assert [one for one, _ in existing.to_make] == [elsewhere]
    assert await why(existing, services) == ["there under another name"]


async def test_a_file_that_only_has_the_right_name_is_not_reused(
    services: Services, out: str
) -> None:
    uri = join(out, "cat-0.png")
    await services.places.of(uri).put_text("made", uri, "image/png")

    assert counted(await find_existing([job(out)], run(), services)) == (0, 1)


async def test_a_refresh_makes_what_is_there_and_says_so(services: Services, out: str) -> None:
    await persisted(services, job(out))
    again = run(refresh=True)

    existing = await find_existing([job(out)], again, services)

    assert counted(existing) == (0, 1)
    assert await why(existing, services, again) == ["refresh"]
    assert counted(await find_existing([job(out)], run("first", refresh=True), services)) == (1, 0)


async def test_each_job_to_be_made_has_its_reason(services: Services, out: str) -> None:
    await submitted(services, job(out, "running"))
    failed = await submitted(services, job(out, "failed"))
    await services.ledger.ended(failed, JobState.FAILED, GenerationFailed("no"))
    lost = await submitted(services, job(out, "lost"))
    await services.ledger.given_up(lost)
    jobs = [job(out, item) for item in ("running", "failed", "lost", "new")]
    wrong = job(out, "wrong", image_urls=["none.jpg"])

    existing = await find_existing([*jobs, wrong], run(), services)

    assert await why(existing, services) == [
        "paid for, to be collected",
        "to be tried again",
        "given up",
        "new",
        "with mistakes",
    ]


async def test_the_order_of_the_plan_is_kept_and_a_wrong_job_stops_no_other(
    services: Services, out: str
) -> None:
    jobs = [job(out, str(number)) for number in range(6)]
    jobs[2] = job(out, "2", image_urls=["none.jpg"])
    jobs[4] = replace(jobs[4], model_id="acme/unknown")
    await persisted(services, jobs[1])

    existing = await find_existing(jobs, run(), services)

    assert [one.item for one, _ in existing.to_make] == ["0", "2", "3", "4", "5"]
    assert [checked is None for _, checked in existing.to_make] == [False, True, False, True, False]


async def test_a_survey_writes_nothing_and_spends_nothing(services: Services, out: str) -> None:
    await find_existing([job(out)], run(), services)

    assert list(await services.ledger.list()) == []
    assert await services.places.of(join(out, "a")).size(Path(out).as_uri()) is None


async def test_storage_that_cannot_be_asked_is_no_missing_output(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"s3://comfyline/find_existing{out}"
    await persisted(services, job(folder))

    async def away(_uri: str) -> int:
        raise Unreachable("away")

    monkeypatch.setattr(services.places.bucket, "size", away)
    with pytest.raises(Unreachable):
        await find_existing([job(folder)], run(), services)


async def test_an_unknown_price_is_not_free(services: Services, out: str) -> None:
    existing = await find_existing([job(out)], run(), services)

    assert await estimate(existing, run(), services) is None


async def test_each_file_is_read_once_and_each_model_asked_for_once_for_many_jobs(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    entry = services.catalogue.entry

    async def counted_entry(model_id: str) -> ModelEntry:
        asked.append(model_id)
        return await entry(model_id)

    def counted_look(path: str) -> tuple[Facts | Trouble, Stamp | None]:
        asked.append(path)
        return look_at_file(path)

    monkeypatch.setattr(services.catalogue, "entry", counted_entry)
    monkeypatch.setattr("comfyline.storage.origins.look_at_file", counted_look)

    existing = await find_existing(
        [job(out, str(number)) for number in range(1000)], run(), services
    )

    assert counted(existing) == (0, 1000)
    assert asked == [MODEL, str(CAT)]


async def test_every_mistake_of_every_job_is_known_at_once(
    services: Services, out: str, tmp_path: Path
) -> None:
    broken, turned = tmp_path / "broken.png", tmp_path / "turned.jpg"
    broken.write_bytes(picture("PNG")[:-90])
    turned.write_bytes(picture("JPEG", orientation=6))
    jobs = [
        job(out, "a", aspect_ratio="16x9", promt="x"),
        job(out, "b", image_urls=[str(broken), "none.jpg"]),
        job(out, "b again", image_urls=[str(broken), "none.jpg"]),
        replace(job(out, "c"), model_id="acme/unknown"),
        job(out, "fine", image_urls=[str(turned)]),
    ]
    told: list[Event] = []

    with observed_by(told.append):
        existing = await find_existing(jobs, run(), services)

    said = [str(problem) for problem in existing.mistakes]
    assert [checked is None for _, checked in existing.to_make] == [True] * 4 + [False]
    assert said[0].startswith("p.yaml:5:3: aspect_ratio: '16x9' is not one of ")
    assert said[0].endswith("; did you mean `16:9`?")
    assert said[1] == "p.yaml:5:3: promt: the model has no such field; did you mean `prompt`?"
    assert said[2].startswith(f"p.yaml:5:3: image_urls[0]: {broken} is broken: ")
    assert said[3].startswith("p.yaml:5:3: image_urls[1]: there is no file none.jpg")
    assert "acme/unknown" in said[4]
    assert len(said) == 5
    note = f"{turned}: turned by its EXIF data; RunComfy may or may not honour that"
    assert existing.notes == (note,)
    assert told == [Note(note)]
