"""What a sidecar tells of a job that the ledger does not know, taken for what it is, or not."""

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.account import LOCAL_SANDBOX, Account
from comfyline.config.settings import Settings
from comfyline.job import Job, JobState, StoredOutput
from comfyline.ledger.attempts import UNKNOWN_ORIGIN
from comfyline.ledger.claims import Claimed
from comfyline.pipeline.output_names import output_uris, versions
from comfyline.plan.reuse import Preflight, find_existing
from comfyline.sandbox.store import Store
from comfyline.services import Services, open_services
from comfyline.stack.home import Layout
from comfyline.storage.local import Folder
from comfyline.storage.place import join, local_path
from comfyline.storage.sidecar import sidecar_text
from tests.plan.conftest import LIMITS, MODEL, PAID, checked, counted, job, run

SANDBOX = Account(LOCAL_SANDBOX, profile="sandbox")
MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["folder", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of each kind of storage, in which nothing is."""
    name = secrets.token_hex(6)
    is_bucket = request.param == "bucket"
    return f"s3://comfyline/adopting/{name}" if is_bucket else str(tmp_path / "out")


async def existing(services: Services, *jobs: Job) -> Preflight:
    return await find_existing(jobs, run("now"), services)


async def stored_elsewhere(
    services: Services,
    one: Job,
    *,
    outputs: int = 1,
    account: Account | None = PAID,
    request_id: str = "request-1",
    version: int = 0,
    content: str = "made",
    **of_sidecar: Any,
) -> Sequence[StoredOutput]:
    """A job's outputs with their sidecars, of which this ledger has never heard."""
    sha256 = hashlib.sha256(b"made").hexdigest()
    bare = [StoredOutput(index, "", sha256, 4, "image/png") for index in range(outputs)]
    stored = []
    for each, wanted in zip(bare, output_uris(one.placement, bare), strict=True):
        uri = [name for _, name in zip(range(version + 1), versions(wanted), strict=False)][-1]
        reached = ("planned", "submitting", "submitted", "completed", "persisted")
        told: dict[str, Any] = {
            "account": account,
            "request_id": request_id,
            "attempt": 1,
            "cost_usd": 0.14,
            "estimate_usd": 0.12,
            "timestamps": {s: MADE + timedelta(minutes=n) for n, s in enumerate(reached)},
            "outputs": outputs,
        }
        output = replace(each, uri=uri)
        text = sidecar_text(await checked(one, services), output, **told | of_sidecar)
        place = services.places.of(uri)
        await place.put_text(content, uri, "image/png")
        await place.put_text(text, f"{uri}.json", "application/json")
        stored.append(output)
    return stored


@pytest.mark.parametrize("version", [0, 1], ids=["its own name", "a version"])
async def test_what_was_paid_for_and_lies_there_is_reused(
    services: Services, out: str, version: int
) -> None:
    one = job(out)
    stored = await stored_elsewhere(services, one, outputs=2, version=version)

    found = await existing(services, one, job(out, "dog"))

    assert counted(found) == (1, 1)
    assert found.there[0].outputs == tuple(stored)
    [attempt] = await services.ledger.list()
    assert (attempt.state, attempt.request_id) == (JobState.PERSISTED, "request-1")
    assert (attempt.account, attempt.cost_usd) == (PAID, 0.14)
    assert attempt.reached[JobState.PERSISTED] == MADE + timedelta(minutes=4)
    assert attempt.submitted_at == MADE + timedelta(minutes=2)
    assert counted(await existing(services, one)) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": "mode"},
        {"content": "longer"},
        {"account": replace(PAID, name="team-b")},
        {"account": replace(PAID, origin="https://another.example")},
        {"account": SANDBOX},
        {"rejected": "It is blank"},
        {"request_id": None},
    ],
    ids=str,
)
async def test_what_is_not_this_accounts_or_not_whole_is_not_adopted(
    services: Services, folder: str, wrong: dict[str, Any]
) -> None:
    one = job(folder)
    await stored_elsewhere(services, one, **wrong)
    assert counted(await existing(services, one)) == (0, 1)
    assert await services.ledger.list() == []


async def test_neither_another_jobs_sidecar_nor_a_part_of_the_outputs_is_adopted(
    services: Services, folder: str
) -> None:
    await stored_elsewhere(services, job(folder, prompt="another"))
    two = await stored_elsewhere(services, job(folder, "dog"), outputs=2)
    await asyncio.to_thread(local_path(two[1].uri).unlink)

    assert counted(await existing(services, job(folder), job(folder, "dog"))) == (0, 2)
    assert await services.ledger.list() == []


async def test_one_that_does_not_say_whose_it_is_blocks_its_job(
    services: Services, folder: str
) -> None:
    one = job(folder)
    await stored_elsewhere(services, one, account=None)

    for _ in range(2):
        assert counted(await existing(services, one)) == (0, 1)

    [attempt] = await services.ledger.list()
    assert (attempt.state, attempt.error_kind) == (JobState.IN_DOUBT, UNKNOWN_ORIGIN)
    claim = await services.ledger.claim(attempt.checked, run_id="now", refresh=True, limits=LIMITS)
    assert not isinstance(claim, Claimed)


@pytest.mark.parametrize("explained", ["by this ledger", "by the local sandbox"])
async def test_one_that_is_known_to_be_the_sandboxs_is_no_question(
    services: Services, settings: Settings, folder: str, explained: str
) -> None:
    one = job(folder)
    await stored_elsewhere(services, one, account=None)
    if explained == "by this ledger":
        its = replace(settings, runcomfy=replace(settings.runcomfy, account=SANDBOX))
        async with open_services(its) as sandbox:
            check = await checked(one, sandbox)
            claim = await sandbox.ledger.claim(check, run_id="x", refresh=False, limits=LIMITS)
            assert isinstance(claim, Claimed)
            await sandbox.ledger.accepted(claim.attempt_id, "request-1")
    else:
        store = Store(Layout(settings.home).sandbox)
        store.add("request-1", model_id=MODEL, inputs={}, price_usd=0.14, once=False)
        store.close()

    assert counted(await existing(services, one)) == (0, 1)
    assert await services.ledger.list() == []


async def test_the_sandboxs_own_is_adopted_there(settings: Settings, folder: str) -> None:
    its = replace(settings, runcomfy=replace(settings.runcomfy, account=SANDBOX))
    async with open_services(its) as sandbox:
        await stored_elsewhere(sandbox, job(folder), account=SANDBOX)
        assert counted(await existing(sandbox, job(folder))) == (1, 0)


async def test_what_would_still_be_polled_is_stored_already(
    services: Services, folder: str
) -> None:
    """A ledger of between the submission and today; RunComfy may know the request no more."""
    one = job(folder)
    check = await checked(one, services)
    claim = await services.ledger.claim(check, run_id="first", refresh=False, limits=LIMITS)
    assert isinstance(claim, Claimed)
    await services.ledger.accepted(claim.attempt_id, "request-1")
    await stored_elsewhere(services, one, request_id="another")
    assert counted(await existing(services, one)) == (0, 1), "it is of another request"
    await asyncio.to_thread(shutil.rmtree, folder)
    await stored_elsewhere(services, one)

    assert counted(await existing(services, one)) == (1, 0)

    [attempt] = await services.ledger.list()
    assert (attempt.state, attempt.cost_usd) == (JobState.PERSISTED, 0.14)


async def test_who_only_looks_sees_what_a_run_would_adopt_and_writes_nothing(
    services: Services, settings: Settings, folder: str
) -> None:
    await stored_elsewhere(services, job(folder), version=1)
    await stored_elsewhere(services, job(folder, "dog"), account=None, request_id="request-2")

    async with open_services(settings, reading=True) as looking:
        found = await existing(looking, job(folder), job(folder, "dog"))

    assert counted(found) == (1, 1)
    assert any("1 job that the ledger does not know adopted" in note for note in found.notes)
    assert any("1 job blocked" in note for note in found.notes)
    assert await services.ledger.list() == []


async def test_no_folder_is_listed_for_what_is_stored(
    services: Services, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored_elsewhere(services, job(folder))
    listed: list[str] = []
    names_in = Folder.names_in

    async def watched(self: Folder, where: str, beginning: str = "") -> dict[str, int]:
        listed.append(where)
        return await names_in(self, where, beginning)

    monkeypatch.setattr(Folder, "names_in", watched)
    await existing(services, job(folder))
    assert listed == [folder]
    assert counted(await existing(services, job(folder))) == (1, 0)
    assert listed == [folder]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
async def test_the_names_in_a_folder_are_its_own_and_not_those_below_it(
    services: Services, folder: str, kind: str
) -> None:
    bucket = f"s3://comfyline/names/{secrets.token_hex(6)}"
    where = bucket if kind == "bucket" else folder
    place = services.places.of_folder(where)
    assert await place.names_in(where) == {}
    for one in ("cat-0.png", "cat-0.png.json", "dog ü.png"):
        await place.put_text("made", join(where, one), "image/png")
    await place.put_text("made", join(f"{where}/below", "cat-1.png"), "image/png")
    assert await place.names_in(where) == {"cat-0.png": 4, "cat-0.png.json": 4, "dog ü.png": 4}
    assert await place.names_in(where, "cat") == {"cat-0.png": 4, "cat-0.png.json": 4}
