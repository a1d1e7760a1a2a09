"""What a POST carries: URLs made for it, that live as long as the job may take."""

import asyncio
import contextlib
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prefect.logging import disable_run_logger

from comfyline.config.settings import StorageSettings
from comfyline.errors import ComfylineError, InputInvalid, Unfetchable
from comfyline.job import CheckedJob, Job, JobState, Media, Placement
from comfyline.keys import job_key
from comfyline.plan.check import validate_job
from comfyline.run import CostLimits, Run, Submission, UploadedInputs
from comfyline.runcomfy.verdict import Accepted, SlowDown, Verdict
from comfyline.services import Services, open_services
from comfyline.storage.uploads import Uploads
from tasks import submit as submit_module
from tasks.submit import submit
from tasks.upload_inputs import upload_inputs
from tests.conftest import EDIT, ROOT, Sandbox
from tests.operations.conftest import bucket, settings

__all__ = ["bucket"]
"""The fixture."""

MEDIA = Media(("image_urls", 0), "/a.jpg", "image", "1" * 64, 10, "image/jpeg")
UPLOADED = UploadedInputs(("s3://comfyline/uploads/a.jpg",))


@pytest.fixture
async def services(
    sandbox: Sandbox, bucket: StorageSettings, tmp_path: Path
) -> AsyncIterator[Services]:
    models = ROOT / "configs/models"
    given = settings(
        tmp_path, replace(bucket, url_expires=600), sandbox.url, "sandbox-token", models
    )
    async with open_services(given) as opened:
        yield opened


def job() -> CheckedJob:
    inputs = {"prompt": "a beach", "image_urls": [MEDIA.origin]}
    one = Job("scenes", "cat", "edit", EDIT, inputs, Placement("/out", "{{ index }}.png", {}))
    return CheckedJob(one, job_key(EDIT, inputs, (MEDIA,), None), (MEDIA,), 0.1)


def a_run(timeout: float) -> Run:
    costs = CostLimits()
    return Run(
        id="run", pipeline="scenes", in_flight=4, timeout=timeout, costs=costs, refresh=False
    )


class Posts:
    """Stands where the POST leaves, and answers what a test wants."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)
        self.bodies: list[Mapping[str, Any]] = []

    async def __call__(self, _: str, body: Mapping[str, Any]) -> Verdict:
        self.bodies.append(body)
        return self.verdicts.pop(0)

    @property
    def queries(self) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(body["image_urls"][0]).query) for body in self.bodies]


async def test_each_post_of_a_job_carries_a_url_that_outlives_the_job(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowDown(0.0)
    posts = Posts(slow, slow, Accepted("request-1"))
    monkeypatch.setattr(services.client, "submit", posts)
    monkeypatch.setattr(submit_module, "backoff", lambda *_: 0)

    with disable_run_logger():
        done = await submit.fn(job(), UPLOADED, a_run(3600), services)

    assert isinstance(done, Submission)
    assert [query["X-Amz-Expires"] for query in posts.queries] == [["4500"]] * 3


async def test_a_post_whose_urls_would_end_before_the_job_does_not_leave(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(*_: object) -> str:
        raise Unfetchable("The credentials end at 12:00", hint="Renew them")

    posts = Posts()
    monkeypatch.setattr(services.client, "submit", posts)
    monkeypatch.setattr(services.uploads, "presign", ended)

    state = await submit.fn(job(), UPLOADED, a_run(3600), services)
    error = await state.aresult(raise_on_failure=False)

    assert isinstance(error, ComfylineError)
    assert error.kind == "unfetchable"
    assert posts.bodies == []
    assert await services.ledger.find([job().key]) == {}


async def test_an_id_that_the_ledger_cannot_take_yet_lies_beside_it_meanwhile(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody else writes for longer than usual: a machine may lose its power before they end."""
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as other:

        async def accepts(*_: object) -> Verdict:
            other.execute("BEGIN IMMEDIATE")
            return Accepted("request-1")

        kept = threading.Event()
        keep = services.journal.accepted

        def kept_beside(line: int, request_id: str) -> None:
            keep(line, request_id)
            kept.set()

        monkeypatch.setattr(services.client, "submit", accepts)
        monkeypatch.setattr(services.journal, "accepted", kept_beside)
        with disable_run_logger():
            submitting = asyncio.create_task(submit.fn(job(), UPLOADED, a_run(3600), services))
            assert await asyncio.to_thread(kept.wait, 60)
            assert not submitting.done()
            assert [line.request_id for line in services.journal.lines()] == ["request-1"]
            other.rollback()
            done = await submitting

    assert isinstance(done, Submission)
    [known] = (await services.ledger.find([job().key])).values()
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "request-1")


async def test_an_object_that_can_be_presigned_is_fetched_where_it_lies_and_not_copied(
    services: Services, sandbox: Sandbox
) -> None:
    folder = f"s3://comfyline/{secrets.token_hex(6)}"
    cat = f"{folder}/in/a cat #1.jpg"
    await services.places.bucket.put(ROOT / "configs/samples/cat.jpg", cat, "image/jpeg")
    inputs = {"prompt": "a beach", "image_urls": [cat], "aspect_ratio": "21:9"}
    asked = Job("scenes", "cat", "edit", EDIT, inputs, Placement("/out", "{{ index }}.png", {}))
    entry = await services.catalogue.entry(EDIT)
    checked = await validate_job(asked, entry, services.inputs)

    with disable_run_logger():
        uploaded = await upload_inputs.fn(checked, services)
        assert isinstance(uploaded, UploadedInputs)
        done = await submit.fn(checked, uploaded, a_run(600), services)

    assert isinstance(done, Submission)
    result = await asyncio.to_thread(sandbox.finish, done.request_id)
    assert (result["status"], uploaded.uris) == ("completed", (cat,))
    booked = await asyncio.to_thread(sandbox.booked, done.request_id)
    assert [url.rpartition("/")[2] for url in booked["inputs_fetched_at"]] == ["a%20cat%20%231.jpg"]
    assert [one.uri async for one in services.places.bucket.files_in(f"{folder}/")] == [cat]


async def test_a_storage_that_runcomfy_cannot_reach_gets_no_upload(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Uploads(
        services.places.bucket,
        StorageSettings("s3://comfyline/uploads", "http://127.0.0.1:9000"),
        services.inputs,
        tmp_path,
        runcomfy_url="https://model-api.runcomfy.net",
    )
    monkeypatch.setattr(services, "uploads", real)

    state = await upload_inputs.fn(job(), services)
    error = await state.aresult(raise_on_failure=False)

    assert isinstance(error, InputInvalid)
    assert "where RunComfy (model-api.runcomfy.net) cannot fetch" in error.message
