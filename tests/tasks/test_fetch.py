"""fetch: what a result names, whole, of its kind and once each; all else stays collectable."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from comfyline.config.settings import StorageSettings
from comfyline.errors import BrokenOutput
from comfyline.job import CheckedJob, Job, JobState, Placement
from comfyline.keys import job_key
from comfyline.ledger.claims import Claimed, Limits
from comfyline.run import FetchedOutputs, Submission
from comfyline.runcomfy.download import Downloads
from comfyline.services import Services, now, open_services
from tasks.failure import unwrap
from tasks.fetch import fetch
from tests.operations.conftest import settings
from tests.runcomfy.conftest import FakeTime
from tests.runcomfy.hostile import GOOD, WIDE, Hostile, hostile_cdn

MODEL = "acme/painter"
Fetch = Callable[..., Awaitable[FetchedOutputs]]


@pytest.fixture(scope="module")
def runcomfy() -> Iterator[Hostile]:
    with hostile_cdn() as hostile:
        yield hostile


@pytest.fixture(scope="module")
async def services(
    runcomfy: Hostile, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "models/acme").mkdir(parents=True)
    entry = {"model_id": MODEL, "categories": ["text-to-image"], "input_schema": {}}
    (folder / "models/acme/painter.json").write_text(json.dumps(entry))
    none = StorageSettings("s3://none/uploads", "http://127.0.0.1:9", None, None, 60)
    given = settings(folder, none, runcomfy.url, models=folder / "models")
    with disable_run_logger():
        async with (
            open_services(given) as opened,
            Downloads((), runcomfy.url, sleep=FakeTime().sleep) as opened.downloads,
        ):
            yield opened


@pytest.fixture
async def fetched(services: Services, runcomfy: Hostile) -> tuple[Fetch, CheckedJob]:
    """Fetches an output as a completed request's; the job as the ledger knows it."""
    request_id = f"r{secrets.token_hex(4)}"
    inputs = {"prompt": request_id, "output_format": "png"}
    job = Job("scenes", "cat", "paint", MODEL, inputs, Placement("/out", "{{ index }}", {}))
    checked = CheckedJob(job, job_key(MODEL, inputs, (), None), (), 0.1)
    claim = await services.ledger.claim(
        checked, run_id="run", refresh=False, limits=Limits(in_flight=99)
    )
    assert isinstance(claim, Claimed)
    await services.ledger.accepted(claim.attempt_id, request_id)

    async def fetched(output: Any, checked: CheckedJob = checked) -> FetchedOutputs:
        answer = {"request_id": request_id, "status": "completed", "cost": 0.25, "output": output}
        runcomfy.results[request_id] = json.dumps(answer).replace("cdn:", runcomfy.url).encode()
        submission = Submission(claim.attempt_id, 1, JobState.COMPLETED, request_id, now())
        return await unwrap(await fetch.fn(checked, submission, services))

    return fetched, checked


async def state(services: Services, checked: CheckedJob) -> tuple[JobState, float | None]:
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    return attempt.state, attempt.cost_usd


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


async def test_outputs_are_fetched_in_order_and_what_is_the_same_is_stored_once(
    fetched: tuple[Fetch, CheckedJob], services: Services
):
    fetch_them, checked = fetched
    found = await fetch_them(
        {
            "images": ["cdn:/good/1.png", "cdn:/good/2.png"],
            "more": {"deep": [[{"url": data_uri(GOOD)}], {"x": "cdn:/wide/1"}]},
        }
    )
    paths = [Path(file.path) for file in found.files]
    assert [(one.index, one.media_type) for one in found.files] == [
        (0, "image/png"),
        (1, "image/jpeg"),
    ]
    assert [path.read_bytes() for path in paths] == [GOOD, WIDE]
    assert {*paths[0].parent.iterdir()} == {*paths, paths[0].with_name("result.json")}
    assert await state(services, checked) == (JobState.COMPLETED, 0.25)


def accepting_svg(checked: CheckedJob) -> CheckedJob:
    placement = replace(checked.job.placement, accept=("svg",))
    return replace(checked, job=replace(checked.job, placement=placement))


async def test_a_drawing_is_fetched_only_where_the_pipeline_asks_for_it(
    fetched: tuple[Fetch, CheckedJob],
):
    fetch_them, checked = fetched
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    output = {"images": [data_uri(drawing, "image/svg+xml")]}
    with pytest.raises(BrokenOutput, match="SVG drawing, not an image") as refused:
        await fetch_them(output)
    [file] = (await fetch_them(output, accepting_svg(checked))).files

    assert "accept: [svg]" in (refused.value.hint or "")
    assert (file.bytes, file.media_type) == (len(drawing), "application/x-svg")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"image": "cdn:/video/1.png"}, "the model makes image"),
        ({"result": "cdn:/sound/1"}, "None of the outputs is of kind image: they are audio/wav"),
        ({"image": "cdn:/page/1.png"}, "doctype html"),
        ({"image": "cdn:/png_bomb/1.png"}, "more pixels"),
        ({"images": ["cdn:/good/1.png", "cdn:/truncated_without_length/1.png"]}, "broken"),
        ({"image": data_uri(b"<?xml version='1.0'?><a/>")}, "not an image, video or sound"),
        ({"image": data_uri(b"<html>" * 2000)}, "begins with '<html>"),
        ({"image": "http://169.254.169.254/latest"}, "does not allow"),
        ({"image": "cdn:/away/http://127.0.0.1:1/"}, "does not allow"),
        ({}, "contains no output"),
    ],
)
async def test_what_is_no_output_is_refused_and_stays_collectable(
    fetched: tuple[Fetch, CheckedJob], services: Services, output: Any, words: str
):
    fetch_it, checked = fetched
    with pytest.raises(BrokenOutput, match=words) as raised:
        await fetch_it(output, accepting_svg(checked))
    assert raised.value.request_id
    assert await state(services, checked) == (JobState.COMPLETED, 0.25)
    assert [*services.work.rglob("*.part")] == []


@pytest.mark.parametrize(
    ("output", "types"),
    [
        # Another format than was asked for, and another kind beside one of the right kind.
        ({"image": "cdn:/wide/1.png"}, ["image/jpeg"]),
        ({"image": "cdn:/good/1.png", "making_of": "cdn:/video/1"}, ["image/png", "video/mp4"]),
        ({"images": [data_uri(GOOD), data_uri(WIDE)]}, ["image/png", "image/jpeg"]),
    ],
)
async def test_what_is_good_and_not_quite_what_was_asked_for_is_kept_as_what_it_is(
    fetched: tuple[Fetch, CheckedJob], output: Any, types: list[str]
):
    assert [file.media_type for file in (await fetched[0](output)).files] == types
