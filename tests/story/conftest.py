"""A project folder as a user has one, the real command line in it, and what must always hold."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from comfyline.ledger.attempts import Attempt
from comfyline.services import now, open_ledger
from comfyline.stack.stack import StackAddresses, addresses
from tests.conftest import Sandbox, ask_prefect, prefect_home, prefect_variables
from tests.ended import Ended
from tests.forking import Command, Process, clean_environment, fork_server, start
from tests.money import discrepancies, refreshed

ROOT = Path(__file__).parents[2]
PIPELINE = "configs/pipelines/office-scenes.yaml"


class Running:
    """A command line that is under way in a forked process; what it says goes to files."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.communicate(180)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> str:
        """What it has said to people so far."""
        return self._process.output.with_suffix(".log").read_text(errors="replace")

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for its end; its stdout and stderr."""
        if self.returncode is None:
            self._process.channel.settimeout(timeout)
            self.returncode = self._process.wait()
        return self._process.output.with_suffix(".json").read_text(), self.said()


class Project:
    """A working directory with the project's configs, over one home.

    Its commands are forked off a process that has the command line imported, which spares seconds
    each; `fresh` starts one as a shell does.
    """

    def __init__(self, directory: Path, home: Path, forks: Path, stack: StackAddresses) -> None:
        self.directory, self.home, self.stack, self._forks = directory, home, stack, forks
        self._commands = 0
        self.begun = now()
        shutil.copytree(ROOT / "configs", directory / "configs")
        here = {"COMFYLINE_HOME": str(home)}
        self.environment = clean_environment() | prefect_variables(stack) | here

    def start(self, *arguments: str, **environment: str) -> Running:
        self._commands += 1
        command = Command(
            arguments=arguments,
            directory=str(self.directory),
            environment=self.environment | environment,
            output=str(self.directory.with_name(f"command-{self._commands}")),
        )
        return Running(start(self._forks, command))

    def comfyline(self, *arguments: str, **environment: str) -> Ended:
        with self.start(*arguments, **environment) as process:
            stdout, stderr = process.communicate(timeout=180)
        return Ended(process.returncode or 0, stdout, stderr)

    def fresh(self, *arguments: str, **environment: str) -> Ended:
        """The same in a process of its own from the first line on."""
        ended = subprocess.run(
            [sys.executable, "-m", "comfyline.cli", *arguments],
            cwd=self.directory,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def run(self, prompt: str, *more: str) -> Ended:
        """Runs the sample pipeline with a prompt of its own, so that its jobs are its own."""
        wanted = f"steps.edit.input.prompt={json.dumps(prompt)}"
        return self.comfyline("run", PIPELINE, "--set", wanted, "--json", *more)

    @property
    def ledger_url(self) -> str:
        own = f"sqlite:///{self.home / 'ledger.sqlite3'}"
        return self.environment.get("COMFYLINE_LEDGER_URL", own)

    def attempts(self) -> list[Attempt]:
        """Everything that the ledger knows."""
        ledger = open_ledger(self.ledger_url, None, reading=True)
        try:
            return list(asyncio.run(ledger.list()))
        finally:
            ledger.close()

    def accounts(self) -> dict[str, list[dict[str, Any]]]:
        """What every sandbox that there is has accepted since this project began."""
        since = self.begun.isoformat().replace("+00:00", "Z")
        there = {sandbox.url: sandbox.account()["requests"] for sandbox in Sandbox.running}
        if url := self.addresses.sandbox_url:
            there[url] = self.sandbox("GET", "account")["requests"]
        return {
            url: [row for row in rows if row["created_at"] >= since] for url, rows in there.items()
        }

    def discrepancies(self) -> list[str]:
        """In what its ledger and the sandboxes do not agree, of all that is this project's."""
        mine = [one for one in self.attempts() if one.claimed_at and one.claimed_at >= self.begun]
        return discrepancies(self.accounts(), mine, refreshed(self.ledger_url))

    def accepted(self, prompt: str) -> list[Attempt]:
        """What the ledger knows of a prompt under a request id."""
        return [
            attempt
            for attempt in self.attempts()
            if attempt.request_id and attempt.checked.job.inputs["prompt"] == prompt
        ]

    @property
    def addresses(self) -> StackAddresses:
        return addresses(self.home)

    def sandbox(self, method: str, path: str, **more: Any) -> Any:
        url = f"{self.addresses.sandbox_url}/sandbox/{path}"
        return httpx.request(method, url, trust_env=False, **more).raise_for_status().json()

    def prefect(self, method: str, path: str, **more: Any) -> Any:
        """One call of Prefect's API, which spares the seconds in which its command line starts.

        Repeated while the server is too busy, as Prefect's own client does.
        """

        def answered() -> httpx.Response | None:
            answer = ask_prefect(self.stack, method, path, **more)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = self.until(answered).raise_for_status()
        return answer.json() if answer.content else None

    def charges(self, prompt: str) -> list[dict[str, Any]]:
        rows = self.sandbox("GET", "account")["requests"]
        return [row for row in rows if row["input"].get("prompt") == prompt]

    def kill(self, service: str) -> None:
        record = json.loads((self.home / "stack" / f"{service}.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)

    def until(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        """Asks until something holds, less often the longer it takes: each has its price."""
        deadline, pause = time.monotonic() + seconds, 0.03
        while not (found := condition()):
            assert time.monotonic() < deadline, "not in time"
            time.sleep(pause)
            pause = min(1.2 * pause, 0.5)
        return found


@pytest.fixture(scope="session")
def forks(stack: StackAddresses, stack_home: Path) -> Iterator[Path]:
    """The process that forks, at the shared stack."""
    environment = clean_environment() | {
        **prefect_variables(stack),
        "COMFYLINE_HOME": str(stack_home),
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(stack_home / "prefect-client"),
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        # Prefect is imported before the command line has turned its lines to the log file.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_CLIENT_MAX_RETRIES": "3",
    }
    with fork_server(environment) as address:
        yield address


@contextmanager
def project_at(
    directory: Path, stack: StackAddresses, home: Path, forks: Path
) -> Iterator[Project]:
    """A fresh folder on the shared stack; afterwards what must always hold is looked at."""
    project = Project(directory, home, forks, stack)
    yield project
    if project.addresses.sandbox_url:
        project.sandbox("DELETE", "faults")
    _no_secret_is_written(project, stack)
    assert project.discrepancies() == []


@pytest.fixture
def project(
    tmp_path: Path, stack: StackAddresses, stack_home: Path, forks: Path
) -> Iterator[Project]:
    with project_at(tmp_path / "project", stack, stack_home, forks) as project:
        yield project


def _no_secret_is_written(project: Project, stack: StackAddresses) -> None:
    assert stack.storage_credentials is not None
    secrets = [stack.storage_credentials.secret_access_key, "X-Amz-Signature=", "sandbox-token"]
    secrets.append(str(stack.prefect_auth_string).partition(":")[2])
    began = project.begun.timestamp()
    mine = [project.home / "logs", project.home / "runs", project.directory / "outputs"]
    kept = [prefect_home() / "logs", *mine]
    for folder in kept:
        for path in folder.rglob("*"):
            if path.suffix in {".log", ".json", ".html"} and path.stat().st_mtime >= began:
                text = path.read_text(errors="replace")
                found = [secret for secret in secrets if secret in text]
                assert found == [], path
