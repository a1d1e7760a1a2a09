"""fetch: what a result names, whole, of its kind and once each; all else stays collectable."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from comfyline.config.settings import StorageSettings
from comfyline.errors import BrokenOutput, ComfylineError
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


@pytest.fixture
async def services(runcomfy: Hostile, tmp_path: Path) -> AsyncIterator[Services]:
    (tmp_path / "models/acme").mkdir(parents=True)
    entry = {"model_id": MODEL, "categories": ["text-to-image"], "input_schema": {}}
    (tmp_path / "models/acme/painter.json").write_text(json.dumps(entry))
    none = StorageSettings("s3://none/uploads", "http://127.0.0.1:9", None, None, 60)
    given = settings(tmp_path, none, runcomfy.url, models=tmp_path / "models")
    with disable_run_logger():
        async with (
            open_services(given) as opened,
            Downloads((), runcomfy.url, sleep=FakeTime().sleep) as opened.downloads,
        ):
            yield opened


@pytest.fixture
async def fetched(
    services: Services, runcomfy: Hostile, request: pytest.FixtureRequest
) -> tuple[Fetch, CheckedJob]:
    """Fetches an output as a completed request's; the job as the ledger knows it."""
    request_id = f"r{abs(hash(request.node.name))}"

    def asked(**inputs: Any) -> CheckedJob:
        job = Job("scenes", "cat", "paint", MODEL, inputs, Placement("/out", "{{ index }}", {}))
        return CheckedJob(job, job_key(MODEL, job.inputs, (), None), (), 0.1)

    checked = asked(prompt="a cat", output_format="png")
    claim = await services.ledger.claim(
        checked, run_id="run", refresh=False, limits=Limits(in_flight=9)
    )
    assert isinstance(claim, Claimed)
    await services.ledger.accepted(claim.attempt_id, request_id)

    async def fetched(output: Any, checked: CheckedJob = checked) -> FetchedOutputs:
        answer = {"request_id": request_id, "status": "completed", "cost": 0.25, "output": output}
        runcomfy.results[request_id] = json.dumps(answer).encode()
        submission = Submission(claim.attempt_id, 1, JobState.COMPLETED, request_id, now())
        return await unwrap(await fetch.fn(checked, submission, services))

    return fetched, checked


def contents(fetched: FetchedOutputs) -> list[bytes]:
    return [Path(file.path).read_bytes() for file in fetched.files]


async def state(services: Services, checked: CheckedJob) -> tuple[JobState, float | None]:
    attempt = (await services.ledger.find([checked.key]))[checked.key]
    return attempt.state, attempt.cost_usd


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


async def test_outputs_are_fetched_in_order_and_what_is_the_same_is_stored_once(
    fetched: tuple[Fetch, CheckedJob], services: Services, runcomfy: Hostile
):
    fetch_them, checked = fetched
    output = {
        "images": [f"{runcomfy.url}/good/1.png", f"{runcomfy.url}/good/2.png"],
        "more": {"deep": [[{"url": data_uri(GOOD)}], {"x": f"{runcomfy.url}/wide/1"}]},
    }
    found = await fetch_them(output)
    assert [(one.index, one.media_type) for one in found.files] == [
        (0, "image/png"),
        (1, "image/jpeg"),
    ]
    assert contents(found) == [GOOD, WIDE]
    left = {path.name for path in services.work.rglob("*") if path.is_file()}
    assert left == {"result.json", *(one.path.rpartition("/")[2] for one in found.files)}
    assert await state(services, checked) == (JobState.COMPLETED, 0.25)


DRAWING = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


async def test_a_drawing_is_fetched_only_where_the_pipeline_asks_for_it(
    fetched: tuple[Fetch, CheckedJob], services: Services
):
    fetch_them, checked = fetched
    output = {"images": [data_uri(DRAWING, "image/svg+xml")]}
    with pytest.raises(BrokenOutput, match="SVG drawing, not an image") as refused:
        await fetch_them(output)
    assert "accept: [svg]" in (refused.value.hint or "")
    assert await state(services, checked) == (JobState.COMPLETED, 0.25)
    placement = replace(checked.job.placement, accept=("svg",))
    asking = replace(checked, job=replace(checked.job, placement=placement))

    found = await fetch_them(output, asking)

    assert contents(found) == [DRAWING]
    assert [one.media_type for one in found.files] == ["application/x-svg"]


async def test_a_page_is_never_fetched(fetched: tuple[Fetch, CheckedJob]):
    fetch_them, checked = fetched
    placement = replace(checked.job.placement, accept=("svg",))
    asking = replace(checked, job=replace(checked.job, placement=placement))

    with pytest.raises(BrokenOutput, match="not an image, video or sound"):
        await fetch_them({"images": [data_uri(b"<?xml version='1.0'?><a/>")]}, asking)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"image": "URL/video/1.png"}, "the model makes image"),
        ({"result": "URL/sound/1"}, "None of the outputs is of kind image: they are audio/wav"),
        ({"image": "URL/page/1.png"}, "doctype html"),
        ({"image": "URL/png_bomb/1.png"}, "more pixels"),
        ({"images": ["URL/good/1.png", "URL/truncated_without_length/1.png"]}, "broken"),
        ({"image": data_uri(b"<html>" * 2000)}, "begins with '<html>"),
        ({"image": "http://169.254.169.254/latest"}, "does not allow"),
        ({"image": "URL/away/http://127.0.0.1:1/"}, "does not allow"),
        ({}, "contains no output"),
    ],
)
async def test_what_is_no_output_is_refused_and_stays_collectable(
    fetched: tuple[Fetch, CheckedJob],
    services: Services,
    runcomfy: Hostile,
    output: Any,
    words: str,
):
    fetch_it, checked = fetched
    with pytest.raises(BrokenOutput, match=words) as raised:
        await fetch_it(json.loads(json.dumps(output).replace("URL", runcomfy.url)))
    assert isinstance(raised.value, ComfylineError)
    assert raised.value.request_id
    assert await state(services, checked) == (JobState.COMPLETED, 0.25)
    left = {path.suffix for path in services.work.rglob("*") if path.is_file()}
    assert ".part" not in left


@pytest.mark.parametrize(
    ("output", "types"),
    [
        # Another format than was asked for, and another kind beside one of the right kind.
        ({"image": "URL/wide/1.png"}, ["image/jpeg"]),
        ({"image": "URL/good/1.png", "making_of": "URL/video/1"}, ["image/png", "video/mp4"]),
        ({"images": [data_uri(GOOD), data_uri(WIDE)]}, ["image/png", "image/jpeg"]),
    ],
)
async def test_what_is_good_and_not_quite_what_was_asked_for_is_kept_as_what_it_is(
    fetched: tuple[Fetch, CheckedJob], runcomfy: Hostile, output: Any, types: list[str]
):
    files = (await fetched[0](json.loads(json.dumps(output).replace("URL", runcomfy.url)))).files
    assert [file.media_type for file in files] == types
