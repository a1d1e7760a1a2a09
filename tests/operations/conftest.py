"""Services over a folder and a real bucket, and results that are paid for and fetched."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from comfyline.config.account import Account
from comfyline.config.settings import RuncomfySettings, Settings, StorageSettings
from comfyline.job import CheckedJob, FetchedFile, JobState, MediaInfo
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.claims import Claimed, Limits
from comfyline.run import CostLimits, FetchedOutputs, Run, Submission
from comfyline.services import Services, open_services
from comfyline.stack.stack import StackAddresses


def settings(
    directory: Path,
    storage: StorageSettings,
    origin: str = "http://127.0.0.1:9",
    token: str = "token",  # noqa: S107  # no secret
    models: Path | None = None,
) -> Settings:
    return Settings(
        profile="test",
        home=directory / "home",
        model_directories=(models,) if models else (),
        runcomfy=RuncomfySettings(origin, SecretStr(token), (), 32, 100, 5, Account(origin)),
        storage=storage,
        ledger_url=SecretStr(f"sqlite:///{directory}/ledger.sqlite3"),
    )


@pytest.fixture(scope="session")
def bucket(storage: StackAddresses) -> StorageSettings:
    keys = storage.storage_credentials
    assert keys is not None
    return StorageSettings(
        "s3://comfyline/uploads",
        storage.storage_endpoint,
        SecretStr(keys.access_key_id),
        SecretStr(keys.secret_access_key),
        60,
    )


@pytest.fixture(scope="module")
async def services(
    tmp_path_factory: pytest.TempPathFactory, bucket: StorageSettings
) -> AsyncIterator[Services]:
    async with open_services(settings(tmp_path_factory.mktemp("one"), bucket)) as opened:
        yield opened


@pytest.fixture(scope="module")
async def others(
    tmp_path_factory: pytest.TempPathFactory, bucket: StorageSettings
) -> AsyncIterator[Services]:
    """The same storage, with a ledger that knows nothing of what `services` did."""
    async with open_services(settings(tmp_path_factory.mktemp("other"), bucket)) as opened:
        yield opened


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that no other test uses, in the kind of storage that the test asks for."""
    if getattr(request, "param", "folder") == "bucket":
        return f"s3://comfyline/operations/{secrets.token_hex(6)}"
    return str(tmp_path / "out")


def in_each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("out", kinds, indirect=True)


def a_run() -> Run:
    return Run(id="run", pipeline="p", in_flight=1, timeout=60, costs=CostLimits(), refresh=False)


@dataclass(frozen=True)
class Paid:
    """A job whose result is paid for and fetched, and not stored yet."""

    checked: CheckedJob
    submission: Submission
    fetched: FetchedOutputs
    services: Services

    async def attempt(self) -> Attempt:
        return (await self.services.ledger.find([self.checked.key]))[self.checked.key]


async def pay(
    services: Services,
    checked: CheckedJob,
    *contents: bytes,
    media_type: str = "image/png",
    cost: float | None = 0.4,
) -> Paid:
    """Have a job made: its request is completed, and its outputs lie on this disk."""
    ledger, run_id = services.ledger, secrets.token_hex(4)
    claim = await ledger.claim(checked, run_id=run_id, refresh=True, limits=Limits(in_flight=100))
    assert isinstance(claim, Claimed)
    request_id = f"request-{secrets.token_hex(4)}"
    when = await ledger.accepted(claim.attempt_id, request_id)
    await ledger.completed(claim.attempt_id, cost)
    folder = services.work_directory(request_id)
    folder.mkdir(parents=True)
    files = []
    for index, content in enumerate(contents):
        # Outside the work folder, which is cleared: some results are stored again.
        path = services.work / f"kept-{request_id}-{index}"
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(FetchedFile(sha256, len(content), MediaInfo(media_type), index, str(path)))
    submission = Submission(claim.attempt_id, claim.number, JobState.COMPLETED, request_id, when)
    return Paid(checked, submission, FetchedOutputs(tuple(files)), services)
