"""The commands in this process, over a ledger of their own, a real sandbox and a real bucket."""

import asyncio
import hashlib
import json
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from comfyline.cli.main import run
from comfyline.config.account import Account
from comfyline.config.settings import StorageSettings
from comfyline.errors import InDoubt
from comfyline.job import CheckedJob, Job, JobState, Media, Placement, StoredOutput
from comfyline.keys import job_key
from comfyline.ledger.attempts import Attempt, Evidence
from comfyline.ledger.claims import Claimed, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.services import open_places
from comfyline.stack.stack import StackAddresses
from comfyline.storage.sidecar import sidecar_text
from tests.conftest import EDIT, Sandbox
from tests.ended import Ended

T = TypeVar("T")
Comfyline = Callable[..., Ended]
ROOMY = Limits(in_flight=1000)
CAT = Media(("image_urls", 0), "/photos/cat.jpg", "image", "1" * 64, 10, "image/jpeg")


class Office:
    """A home, a profile and a ledger, and the commands over them."""

    def __init__(
        self,
        folder: Path,
        sandbox: Sandbox,
        storage: StorageSettings,
        comfyline: Comfyline,
    ) -> None:
        self.folder, self.sandbox, self.storage = folder, sandbox, storage
        self.url = f"sqlite:///{folder / 'home/ledger.sqlite3'}"
        self.bucket = f"s3://comfyline/{secrets.token_hex(6)}"
        self._profile = folder / "profile.yaml"
        self._comfyline = comfyline
        self.write_profile(balance_url=f"{sandbox.url}/prod/v2/balance")

    def write_profile(self, balance_url: str = "") -> None:
        self.account = Account(self.sandbox.url, profile=str(self._profile))
        self._profile.write_text(
            json.dumps(
                {
                    "runcomfy": {
                        "base_url": self.sandbox.url,
                        "patience": "1s",
                        "balance_url": balance_url or None,
                    },
                    "storage": {
                        "uploads": f"{self.bucket}/uploads",
                        "endpoint_url": self.storage.endpoint_url,
                    },
                }
            )
        )

    def comfyline(self, command: str, *arguments: str) -> Ended:
        return self._comfyline(command, *arguments, "--profile", str(self._profile))

    @contextmanager
    def at(self, account: Account) -> Iterator[None]:
        """Asks for another account while the block lasts."""
        own, self.account = self.account, account
        yield
        self.account = own

    def ledger(self, work: Callable[[Ledger], Awaitable[T]], at: datetime | None = None) -> T:
        """Does something with the ledger, at another time where one is named."""

        async def opened() -> T:
            ledger = Ledger(self.url, "test", (lambda: at) if at else None, account=self.account)
            try:
                return await work(ledger)
            finally:
                ledger.close()

        return asyncio.run(opened())

    def attempts(self) -> list[Attempt]:
        """All that the ledger knows, oldest first."""
        return list(self.ledger(lambda ledger: ledger.list(Selection(), of_all=True)))[::-1]

    def claimed(
        self,
        checked: CheckedJob,
        *,
        run_id: str = "run-1",
        refresh: bool = False,
        balance_usd: float | None = None,
        at: datetime | None = None,
    ) -> int:
        """The id of an attempt whose POST leaves now."""
        claim = self.ledger(
            lambda one: one.claim(
                checked, run_id=run_id, refresh=refresh, limits=ROOMY, balance_usd=balance_usd
            ),
            at,
        )
        assert isinstance(claim, Claimed)
        return claim.attempt_id

    def submitted(self, checked: CheckedJob, request_id: str | None = None, **of_claim: Any) -> int:
        attempt_id = self.claimed(checked, **of_claim)
        given = request_id or f"request-{secrets.token_hex(4)}"
        self.ledger(lambda one: one.accepted(attempt_id, given), of_claim.get("at"))
        return attempt_id

    def doubted(
        self, checked: CheckedJob, how_far: str | None = "body_sent", **of_claim: Any
    ) -> int:
        """An attempt whose answer never came."""
        attempt_id = self.claimed(checked, **of_claim)
        error = InDoubt("The POST may have been accepted")
        told = Evidence(how_far=how_far, reason="ReadError" if how_far else None)
        self.ledger(
            lambda one: one.ended(attempt_id, JobState.IN_DOUBT, error, evidence=told),
            of_claim.get("at"),
        )
        return attempt_id

    def stored(
        self,
        checked: CheckedJob,
        request_id: str,
        content: bytes = b"a picture",
        *,
        folder: str = "",
        cost: float | None = 0.14,
        **of_claim: Any,
    ) -> StoredOutput:
        """An output that is really there, with its sidecar."""
        attempt_id = self.submitted(checked, request_id, **of_claim)
        name = f"{checked.key[:8]}-{attempt_id}.png"
        uri = f"{folder or (self.folder / 'out').as_uri()}/{name}"
        digest = hashlib.sha256(content).hexdigest()
        output = StoredOutput(0, uri, digest, len(content), "image/png")
        text = sidecar_text(
            checked,
            output,
            account=None,
            request_id=request_id,
            attempt=1,
            cost_usd=cost,
            estimate_usd=None,
            timestamps={},
        )
        self.put(content, uri)
        self.put(text.encode(), f"{uri}.json")
        self.persisted(attempt_id, output, cost, of_claim.get("at"))
        return output

    def persisted(
        self,
        attempt_id: int,
        output: StoredOutput,
        cost: float | None = 0.14,
        at: datetime | None = None,
    ) -> None:
        async def work(ledger: Ledger) -> None:
            await ledger.completed(attempt_id, cost)
            await ledger.persisted(attempt_id, [output])

        self.ledger(work, at)

    def put(self, content: bytes, uri: str) -> None:
        (self.folder / "local").write_bytes(content)

        async def work() -> None:
            async with open_places(self.storage) as places:
                await places.of(uri).put(self.folder / "local", uri, "image/png")

        asyncio.run(work())

    def generated(self, prompt: str, source: str) -> str:
        """A request that RunComfy has completed and charged."""
        request_id = self.sandbox.submit(prompt, source)
        assert self.sandbox.finish(request_id)["status"] == "completed"
        return request_id


def asked(prompt: str, *, price: float | None = 0.14, **of_job: Any) -> CheckedJob:
    """A job for one picture made from one photograph."""
    inputs = {"prompt": prompt, "image_urls": [CAT.origin]}
    job = Job("scenes", "cat", "edit", EDIT, inputs, Placement("/out", "{{ index }}.png", {}))
    job = replace(job, **of_job)
    return CheckedJob(job, job_key(EDIT, job.inputs, (CAT,), job.variant), (CAT,), price)


def ago(**length: float) -> datetime:
    return datetime.now(UTC) - timedelta(**length)


@pytest.fixture
def comfyline(capsys: pytest.CaptureFixture[str]) -> Comfyline:
    """A command in this process: its code and what it wrote."""

    def ended(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return Ended(code, said.out, said.err)

    return ended


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a ledger with its tables, to be copied."""
    file = tmp_path_factory.mktemp("empty") / "ledger.sqlite3"
    ledger = Ledger(f"sqlite:///{file}", "template")
    asyncio.run(ledger.find([]))
    ledger.close()
    return file


@pytest.fixture
def office(
    tmp_path: Path,
    empty_ledger: Path,
    sandbox: Sandbox,
    storage: StackAddresses,
    monkeypatch: pytest.MonkeyPatch,
    comfyline: Comfyline,
) -> Office:
    keys = storage.storage_credentials
    assert keys is not None
    for name, value in {
        "COMFYLINE_HOME": str(tmp_path / "home"),
        "RUNCOMFY_API_TOKEN": "sandbox-token",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("COMFYLINE_LEDGER_URL", "RUNCOMFY_BASE_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    shutil.copy(empty_ledger, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "work")
    settings = StorageSettings("s3://comfyline/uploads", storage.storage_endpoint)
    return Office(tmp_path, sandbox, settings, comfyline)
