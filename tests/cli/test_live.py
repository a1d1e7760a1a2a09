import io
import threading
from pathlib import Path
from typing import Any, Never

import pytest
from rich.console import Console

from comfyline.cli.live import LiveDisplay, print_summary
from comfyline.errors import ComfylineError
from comfyline.job import Job, JobState, Placement, Stage
from comfyline.progress import JobEnded, Note, RunPlanned, ShardsProgressed, StageEntered
from comfyline.report.summary import ErrorRecord, OutputRecord, RunSummary
from comfyline.run import Outcome

PLANNED = RunPlanned("r1", "office", jobs=10, reused=2, estimate_usd=1.12)


class Terminal:
    """A display on a recorded console, and a clock to be turned."""

    def __init__(self, *, live: bool = False) -> None:
        self.now = 100.0
        self.console = Console(file=io.StringIO(), width=100, record=True, force_terminal=live)
        self.display = LiveDisplay(self.console, clock=lambda: self.now)

    def new(self) -> str:
        return self.console.export_text()

    def drawn(self) -> str:
        self.console.print(self.display)
        return self.new()


def ended(
    job: str = "j1",
    state: JobState = JobState.PERSISTED,
    cost: float | None = 0.14,
    message: str = "",
) -> JobEnded:
    one = Job("office", job, "edit", "model", {}, Placement("", "", {}))
    error = ComfylineError(message) if message else None
    return JobEnded(Outcome(one, "", state, cost_usd=cost, cost_unknown=cost is None, error=error))


def test_the_picture_shows_where_every_job_is_and_what_it_costs() -> None:
    terminal = Terminal(live=True)
    assert "… left" in terminal.drawn()
    for event in (
        PLANNED,
        StageEntered("a", "cat · edit", Stage.SUBMIT),
        StageEntered("a", "cat · edit", Stage.POLL),
        StageEntered("b", "dog · edit", Stage.POLL),
        StageEntered("c", "[red]cup", Stage.FETCH),
        ended("d"),
    ):
        terminal.display(event)
    terminal.now += 10

    text = terminal.drawn()

    assert [stage for stage in Stage if stage not in text] == []
    assert text.count("cat · edit") == 1, "a job is in one stage at a time"
    # Seven to go, and the one that was made took ten seconds.
    for part in (
        "office", "3/10", "2 there already", "2  dog · edit, cat · edit", "[red]cup",
        "2 in flight at RunComfy", "$0.14 of about $1.12", "10 s elapsed", "1 min 10 s left",
    ):  # fmt: skip
        assert part in text
    terminal.display(ended("a", cost=None))
    assert "$0.14 (unknown for 1) of about $1.12" in terminal.drawn()
    terminal.display(RunPlanned("r1", "office", jobs=4, reused=0, estimate_usd=None))
    assert "estimate unknown" in terminal.drawn()


def test_what_other_processes_make_of_a_run_is_in_its_picture() -> None:
    terminal = Terminal(live=True)
    states = {JobState.PERSISTED: 2, JobState.FAILED: 1}
    terminal.display(PLANNED)
    terminal.display(ended("a"))
    # Each is the sum until then, in the place of the one before.
    for ends in ({JobState.PERSISTED: 1}, states, states):
        terminal.display(ShardsProgressed(ends, submitted=3, cost_usd=0.42, cost_unknown=1))
    terminal.now += 10

    text = terminal.drawn()

    for part in ("6/10", "1 without outputs", "$0.56 (unknown for 1) of", "10 s left"):
        assert part in text
    assert terminal.display.counters.submitted == 3


def test_notes_and_failures_stay_above_the_picture_of_a_run_that_is_interrupted() -> None:
    terminal = Terminal(live=True)

    def interrupted() -> None:
        with terminal.display as display:
            display(PLANNED)
            display(Note("two are there already"))
            display(ended("j1", JobState.FAILED, None, "blocked"))
            display(ended("j2"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    lines = terminal.new()

    assert "· two are there already" in lines
    assert "✗ j1 · edit  failed: blocked" in lines
    assert "j2 · edit  " not in lines
    assert "office: 4/10 jobs" in lines.splitlines()[-1]


def test_without_a_terminal_status_lines_are_at_least_five_seconds_apart() -> None:
    terminal = Terminal()
    with terminal.display as display:
        display(PLANNED)
        assert terminal.new().startswith("office: 2/10 jobs")
        for number in range(36):
            terminal.now += 0.125
            display(StageEntered(f"j{number} · edit", "x", Stage.POLL))
        assert terminal.new() == ""
        terminal.now += 0.5
        display(ended("j1"))
        assert "office: 3/10 jobs · poll 35 · $0.14 of about $1.12 · 5 s elapsed" in terminal.new()
        for number in range(7):
            display(ended(f"k{number}"))
    assert "office: 10/10 jobs" in terminal.new()


def test_a_failure_is_printed_at_once_on_one_line_without_a_presigned_url() -> None:
    terminal = Terminal()
    terminal.display(PLANNED)
    terminal.new()
    message = "no answer\nwhy \x1b[2J https://b.s3/a?X-Amz-Signature=1 " + "long " * 40
    terminal.display(ended("j1", JobState.IN_DOUBT, None, message))

    (line,) = terminal.new().splitlines()
    assert line.startswith("✗ j1 · edit  in doubt: no answer · why [2J https://b.s3/a long")


@pytest.mark.parametrize("error", [ValueError("closed"), BrokenPipeError(), SystemExit(1)])
@pytest.mark.parametrize("live", [True, False])
def test_a_broken_console_never_stops_the_run(error: BaseException, *, live: bool) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> Never:  # noqa: ARG002 - as any stream
            raise error

    with LiveDisplay(Console(file=Broken(), force_terminal=live)) as display:
        display(PLANNED)
        display(Note("hello"))
        display(ended("j1", JobState.FAILED))
    assert display.counters.ended == 3


def test_events_from_many_threads_are_all_counted_and_leave_nothing_behind() -> None:
    with Terminal(live=True).display as display:
        display(RunPlanned("r1", "office", jobs=800, reused=0, estimate_usd=None))

        def work(name: str) -> None:
            for number in range(100):
                display(StageEntered(f"{name}-{number} · edit", "x", Stage.POLL))
                display(ended(f"{name}-{number}", cost=0.01))

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert display.counters.ended == 800
    assert display.counters.live == {}
    assert round(display.counters.cost_usd, 6) == 8.0


def printed(ui_url: str | None = None, **changes: Any) -> str:
    fields = {
        "run_id": "r1", "pipeline": "office", "jobs": 3, "persisted": 2, "reused": 1, "failed": 0,
        "cancelled": 0, "in_doubt": 0, "submitted": 2, "cost_usd": 0.28, "seconds": 41.2,
        "report": "out/gallery.html", **changes,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=60, record=True)
    print_summary(console, RunSummary.model_validate(fields), ui_url)
    return console.export_text()


def stored(uri: str) -> OutputRecord:
    return OutputRecord(
        job="k", item="cat", step="edit", index=0, uri=uri, sha256="a", bytes=1, media_type="i/p"
    )


def test_the_end_says_what_there_is_and_where(tmp_path: Path) -> None:
    place = tmp_path / "a folder with a long name so that it would have to be wrapped"
    local = [stored((place / f"{name}.png").as_uri()) for name in "ab"]
    text = printed("http://127.0.0.1:4200/runs/1", outputs=local)

    for part in (
        "✓ office  3 jobs: 2 persisted, 1 reused", "$0.28 for 2 submissions", "41 s",
        f"2 files in {place}\n", "out/gallery.html", "http://127.0.0.1:4200/runs/1",
    ):  # fmt: skip
        assert part in text
    several = printed(outputs=[stored("s3://b/x/1.png"), stored("s3://b/y/1.png")])
    assert "2 files in s3://b/x and 1 more folder" in several


def test_the_end_tells_errors_by_kind_with_what_to_do() -> None:
    errors = [
        ErrorRecord(job="k", item=f"[b]{n}", stage="poll", kind="refused", message="No", hint="Do")
        for n in range(12)
    ]
    text = printed(jobs=15, failed=12, errors=errors)

    for part in ("✗ office", "refused · 12 jobs", "[b]9 and 2 more"):
        assert part in text
    assert text.count("→ Do") == 1
