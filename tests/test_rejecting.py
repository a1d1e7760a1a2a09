"""Outputs that are not what was asked for: stored aside, written down, and never thrown away."""

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import Account
from comfyline.config.settings import RuncomfySettings, Secret, Settings, StorageSettings
from comfyline.errors import Unreachable
from comfyline.job import CheckedJob, ContentChecks, FetchedFile, Job, JobState, Media, Placement
from comfyline.keys import job_key
from comfyline.ledger.claims import Claimed, Limits
from comfyline.operations.quality import reject
from comfyline.run import CostLimits, FetchedOutputs, Run, Submission
from comfyline.services import Services, open_services
from tests.media.clips import clip, picture

SMALL, OTHER = picture("PNG"), picture("PNG", (64, 46))
ALL_OF_THEM = ContentChecks(
    64, 48, aspect_ratio=True, not_blank=True, not_input=True, not_duplicate=True
)
NOT_SMALL = ContentChecks(min_width=1024)


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    settings = Settings(
        profile="test",
        home=tmp_path / "home",
        model_directories=(),
        runcomfy=RuncomfySettings(
            "http://127.0.0.1:9", Secret("token"), (), 32, 5, 0, Account("http://127.0.0.1:9")
        ),
        storage=StorageSettings("s3://b/uploads", None, Secret("key"), Secret("secret"), 60),
        ledger_url=Secret(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"),
    )
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def run() -> Run:
    return Run(id="run", pipeline="p", in_flight=1, timeout=60, costs=CostLimits(), refresh=False)


def asked(
    out: str, checks: ContentChecks | None, prompt: str = "a cat", media: tuple[Media, ...] = ()
) -> CheckedJob:
    inputs = {"prompt": prompt, "aspect_ratio": "4:3"}
    placement = Placement(out, f"{prompt}-{{{{ index }}}}.{{{{ ext }}}}", {})
    job = Job("p", prompt, "edit", "acme/edit", inputs, placement, checks=checks)
    return CheckedJob(job, job_key("acme/edit", inputs, (), None), media, 0.5)


def is_there(path: str) -> bool:
    return Path(path).exists()


def put_in_the_way(out: Path) -> None:
    out.mkdir()
    (out / "rejected").write_text("a file where the folder should be")


async def completed(
    services: Services, checked: CheckedJob, *contents: bytes, cost: float | None = 0.4
) -> tuple[Submission, FetchedOutputs]:
    """A request that was paid for, with these outputs on disk."""
    claim = await services.ledger.claim(checked, run_id="run", refresh=False, limits=Limits(10))
    assert isinstance(claim, Claimed)
    request_id = f"{checked.key[:8]}-{claim.number}"
    when = await services.ledger.accepted(claim.attempt_id, request_id)
    await services.ledger.completed(claim.attempt_id, cost)
    folder = services.work_directory(request_id)
    folder.mkdir(parents=True)
    files = []
    for index, content in enumerate(contents):
        path = folder / str(index)
        path.write_bytes(content)
        kind = "image/png" if content.startswith(b"\x89PNG") else "video/mp4"
        digest = hashlib.sha256(content).hexdigest()
        files.append(FetchedFile(index, str(path), digest, len(content), kind))
    submission = Submission(claim.attempt_id, claim.number, JobState.COMPLETED, request_id, when)
    return submission, FetchedOutputs(tuple(files))


async def test_a_rejected_output_is_stored_aside_and_the_attempt_ends_with_its_cost(
    services: Services, out: str
) -> None:
    checked = asked(out, NOT_SMALL)
    submission, fetched = await completed(services, checked, SMALL)

    error = await reject(checked, submission, fetched, run(), services)

    assert error is not None
    said = "The output is 64 × 48 pixels, and at least 1024 wide is asked for"
    assert (error.kind, error.message, error.request_id) == (
        "rejected",
        said,
        submission.request_id,
    )
    assert f"file://{out}/rejected" in error.hint
    aside = Path(out) / "rejected" / "a cat-0.png"
    assert aside.read_bytes() == SMALL
    sidecar = json.loads(aside.with_suffix(".png.json").read_text())
    assert (sidecar["rejected"], sidecar["cost_usd"], sidecar["job"]) == (said, 0.4, checked.key)
    assert sidecar["output"]["sha256"] == hashlib.sha256(SMALL).hexdigest()
    known = (await services.ledger.find([checked.key]))[checked.key]
    assert (known.state, known.error_kind, known.cost_usd) == (JobState.FAILED, "rejected", 0.4)
    assert not services.work_directory(submission.request_id).exists()


@pytest.mark.parametrize("checks", [None, ContentChecks(), ALL_OF_THEM])
async def test_what_passes_is_left_for_whoever_stores_it(
    services: Services, out: str, checks: ContentChecks | None
) -> None:
    checked = asked(out, checks)
    submission, fetched = await completed(services, checked, SMALL)

    assert await reject(checked, submission, fetched, run(), services) is None
    assert not is_there(out)
    assert is_there(fetched.files[0].path)


async def test_of_several_outputs_one_takes_all_along_and_each_says_why(
    services: Services, out: str
) -> None:
    checked = asked(out, ContentChecks(min_height=47))
    submission, fetched = await completed(services, checked, SMALL, OTHER)

    error = await reject(checked, submission, fetched, run(), services)

    said = "Output 2 is 64 × 46 pixels, and at least 47 high is asked for"
    assert error is not None
    assert error.message == said
    aside = Path(out) / "rejected"
    assert [(aside / f"a cat-{n}.png").read_bytes() for n in (0, 1)] == [SMALL, OTHER]
    told = [json.loads((aside / f"a cat-{n}.png.json").read_text())["rejected"] for n in (0, 1)]
    assert told == [said, said]


async def test_nothing_that_lies_aside_already_is_overwritten(services: Services, out: str) -> None:
    checked = asked(out, replace(NOT_SMALL, again=2))
    for content in (SMALL, OTHER, OTHER):
        submission, fetched = await completed(services, checked, content)
        assert await reject(checked, submission, fetched, run(), services)

    aside = Path(out) / "rejected"
    assert (aside / "a cat-0.png").read_bytes() == SMALL
    assert (aside / "a cat-0-2.png").read_bytes() == OTHER
    assert (aside / "a cat-0-3.png").read_bytes() == OTHER
    sidecars = [json.loads(path.read_text()) for path in sorted(aside.glob("*.json"))]
    assert len({sidecar["request_id"] for sidecar in sidecars}) == 3


async def test_where_it_cannot_be_stored_aside_the_attempt_goes_on(
    services: Services, out: str
) -> None:
    put_in_the_way(Path(out))
    checked = asked(out, NOT_SMALL)
    submission, fetched = await completed(services, checked, SMALL)

    with pytest.raises(Unreachable):
        await reject(checked, submission, fetched, run(), services)

    assert (await services.ledger.find([checked.key]))[checked.key].state is JobState.COMPLETED
    (Path(out) / "rejected").unlink()
    assert await reject(checked, submission, fetched, run(), services)


async def test_a_process_that_dies_before_the_ledger_hears_rejects_the_same_file_again(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = asked(out, NOT_SMALL)
    submission, fetched = await completed(services, checked, SMALL)

    async def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(services.ledger, "ended", killed)
        with pytest.raises(SystemExit):
            await reject(checked, submission, fetched, run(), services)
    assert (await services.ledger.find([checked.key]))[checked.key].state is JobState.COMPLETED

    assert await reject(checked, submission, fetched, run(), services)
    found = sorted(path.name for path in (Path(out) / "rejected").iterdir())
    assert found == ["a cat-0.png", "a cat-0.png.json"]


async def test_what_was_accepted_once_is_not_judged_when_its_file_is_brought_back(
    services: Services, out: str
) -> None:
    checked = asked(out, NOT_SMALL)
    submission, fetched = await completed(services, checked, SMALL)
    restored = replace(submission, state=JobState.PERSISTED)

    assert await reject(checked, restored, fetched, run(), services) is None


async def test_of_two_alike_in_a_run_one_is_accepted_and_again_when_it_is_asked_again(
    services: Services, out: str
) -> None:
    this_run, checks = run(), ContentChecks(not_duplicate=True)
    first, second = asked(out, checks), asked(out, checks, "a dog")
    upscaled = replace(second, job=replace(second.job, step="upscale"), key="f" * 64)
    a = await completed(services, first, SMALL)
    b = await completed(services, second, SMALL)
    c = await completed(services, upscaled, SMALL)

    assert await reject(first, *a, this_run, services) is None
    assert await reject(first, *a, this_run, services) is None
    error = await reject(second, *b, this_run, services)
    assert error is not None
    assert error.message == "The output is nearly the same as an output of a cat · edit"
    # The same picture in another step is what a chain of steps is for.
    assert await reject(upscaled, *c, this_run, services) is None


async def test_an_input_that_came_back_is_rejected_and_one_that_is_gone_rejects_nothing(
    services: Services, out: str, tmp_path: Path
) -> None:
    given = tmp_path / "given.webp"
    given.write_bytes(picture("WEBP", (128, 96)))
    media = Media(("image",), str(given), "image", "a" * 64, 1, "image/webp")
    checked = asked(out, ContentChecks(not_input=True), media=(media,))
    submission, fetched = await completed(services, checked, given.read_bytes())
    fetched = FetchedOutputs((replace(fetched.files[0], media_type="image/webp"),))

    away = replace(checked, media=(replace(media, origin=str(tmp_path / "gone.webp")),))
    assert await reject(away, submission, fetched, run(), services) is None
    error = await reject(checked, submission, fetched, run(), services)
    assert error is not None
    assert error.message == "The output is the same as the input given.webp"


async def test_a_film_is_measured_as_well(services: Services, out: str) -> None:
    checked = asked(out, ContentChecks(min_width=100, aspect_ratio=True, not_blank=True))
    submission, fetched = await completed(services, checked, clip())

    error = await reject(checked, submission, fetched, run(), services)

    assert error is not None
    assert error.message == "The output is 64 × 48 pixels, and at least 100 wide is asked for"
    assert (Path(out) / "rejected" / "a cat-0.mp4").exists()
