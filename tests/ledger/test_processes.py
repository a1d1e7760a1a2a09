"""Several real processes at one ledger file: one gets the claim, and a dead one loses nothing."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from comfyline.job import JobState
from comfyline.ledger.decision import Decision
from comfyline.ledger.ledger import Ledger, NotOurs
from tests.ledger.conftest import Desk, asked

CLAIMER = Path(__file__).with_name("claimer.py")


@contextmanager
def claimer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(CLAIMER), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_of_eight_processes_one_gets_each_claim_also_when_the_file_is_new(url: str):
    with ExitStack() as stack:
        processes = [stack.enter_context(claimer(url, "all", "30")) for _ in range(8)]
        assert [said(process) for process in processes] == ["ready"] * 8
        for process in processes:
            go(process)
        claims = [json.loads(said(process)) for process in processes]
    assert Counter(name for mine in claims for name in mine) == Counter(map(str, range(30)))


async def test_a_process_killed_right_after_its_claim_leaves_a_doubt_and_no_second_submission(
    url: str,
):
    job = asked("the one")
    with claimer(url, "hang", "the one") as process:
        assert said(process) == "ready"
        go(process)
        assert said(process) == "claimed"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    time = datetime.now(UTC)
    ledger = Ledger(url, "here:1", lambda: time)
    desk = Desk(ledger)
    early = await desk.claim(job, "run-2")
    assert isinstance(early, NotOurs)
    assert early.decision is Decision.WAIT
    time += timedelta(seconds=61)
    for refresh in (False, True):
        late = await desk.claim(job, "run-2", refresh=refresh)
        assert isinstance(late, NotOurs)
        assert (late.decision, late.attempt.state) == (Decision.BLOCKED, JobState.IN_DOUBT)
    assert len(await ledger.list(None, None)) == 1
    ledger.close()
