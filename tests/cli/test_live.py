import io
import threading
from pathlib import Path
from typing import Any, Never

import pytest
from rich.console import Console

from comfyline.cli.live import LiveDisplay, print_summary
from comfyline.job import JobState, Stage
from comfyline.progress import JobEnded, Note, RunPlanned, StageEntered, observed_by, tell
from comfyline.report.counters import RunCounters
from comfyline.report.summary import ErrorRecord, OutputRecord, RunSummary

PLANNED = RunPlanned("r1", "office", jobs=10, reused=2, estimate_usd=1.12)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Output(io.StringIO):
    """A stream whose new text can be read bit by bit."""

    def new(self):
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain(clock: Clock):
    stream = Output()
    display = LiveDisplay(Console(file=stream, width=80), clock=clock)
    return display, stream


@pytest.fixture
def live(clock: Clock):
    console = Console(file=Output(), width=100, force_terminal=True, record=True)
    return LiveDisplay(console, clock=clock), console


def drawn(display: LiveDisplay):
    """What the live picture shows now."""
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(display._picture())
    return console.export_text()


def ended(
    job: str = "j1",
    state: JobState = JobState.PERSISTED,
    cost: float | None = 0.14,
    message: str = "",
):
    return JobEnded(job, f"{job} · edit", state, cost, message)


def test_the_picture_shows_where_every_job_is_and_what_it_costs(
    live: tuple[LiveDisplay, Console], clock: Clock
):
    display, _ = live
    display(PLANNED)
    display(StageEntered("a", "cat · edit", Stage.POLL))
    display(StageEntered("b", "dog · edit", Stage.POLL))
    display(StageEntered("c", "[red]cup", Stage.FETCH))
    display(ended("d"))
    clock.now += 10

    text = drawn(display)

    assert "office" in text
    assert "3/10" in text
    assert "2 there already" in text
    assert [stage for stage in Stage if stage not in text] == []
    assert "2  dog · edit, cat · edit" in text
    assert "[red]cup" in text
    assert "2 in flight at RunComfy" in text
    assert "$0.14 of about $1.12" in text
    assert "10 s elapsed" in text
    # Seven to go, and the one that was made took ten seconds.
    assert "1 min 10 s left" in text


def test_what_is_not_known_yet_is_said_so(live: tuple[LiveDisplay, Console]):
    display, _ = live

    assert "… left" in drawn(display)

    display(RunPlanned("r1", "office", jobs=4, reused=0, estimate_usd=None))

    assert "… left" in drawn(display)
    assert "$0.00, estimate unknown" in drawn(display)


def test_a_cost_that_is_not_told_is_not_counted_as_nothing(live: tuple[LiveDisplay, Console]):
    display, _ = live
    display(PLANNED)
    display(ended("a"))
    display(JobEnded("b", "b", JobState.PERSISTED, None, cost_unknown=True))

    assert "$0.14 (unknown for 1) of about $1.12" in drawn(display)


def test_on_a_terminal_failures_and_notes_stay_above_the_picture(live: tuple[LiveDisplay, Console]):
    display, console = live
    with display:
        display(PLANNED)
        display(Note("two are there already"))
        display(ended("j1", JobState.FAILED, None, "blocked"))
        display(ended("j2"))

    lines = console.export_text()

    assert "· two are there already" in lines
    assert "✗ j1 · edit  failed: blocked" in lines
    assert "j2 · edit  " not in lines


def test_without_a_terminal_status_lines_are_at_least_five_seconds_apart(
    plain: tuple[LiveDisplay, Output], clock: Clock
):
    display, stream = plain
    with display:
        display(PLANNED)
        assert stream.new().startswith("office: 2/10 jobs")
        for number in range(36):
            clock.now += 0.125
            display(StageEntered(f"j{number}", "x", Stage.POLL))
        assert stream.new() == ""
        clock.now += 0.5
        display(ended("j1"))
        assert "office: 3/10 jobs · poll 35 · $0.14 of about $1.12 · 5 s elapsed" in stream.new()


def test_without_a_terminal_a_failure_is_told_at_once_on_one_line(
    plain: tuple[LiveDisplay, Output],
):
    display, stream = plain
    display(PLANNED)
    stream.new()
    display(ended("j1", JobState.IN_DOUBT, None, "no answer\nwhy \x1b[2J " + "long " * 40))

    (line,) = stream.new().splitlines()
    assert line.startswith("✗ j1 · edit  in doubt: no answer · why [2J long")


def test_without_a_terminal_the_last_line_says_how_it_ended(plain: tuple[LiveDisplay, Output]):
    display, stream = plain
    with display:
        display(PLANNED)
        for number in range(8):
            display(ended(f"j{number}"))
        stream.new()

    assert stream.new() == "office: 10/10 jobs · $1.12 of about $1.12 · 0 s elapsed\n"


def test_an_interrupted_run_leaves_how_far_it_came_also_on_a_terminal(
    live: tuple[LiveDisplay, Console],
):
    display, console = live
    display(PLANNED)

    def run() -> None:
        with display:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert "office: 2/10 jobs" in console.export_text().splitlines()[-1]


def test_plain_lines_can_be_asked_for_on_a_terminal(clock: Clock):
    console = Console(file=Output(), width=100, force_terminal=True, record=True)
    with LiveDisplay(console, live=False, clock=clock) as display:
        display(PLANNED)

    assert console.export_text().startswith("office: 2/10 jobs")


@pytest.mark.parametrize("error", [ValueError("closed"), BrokenPipeError(), SystemExit(1)])
def test_a_broken_console_never_stops_the_run(clock: Clock, error: BaseException):
    class Broken(io.StringIO):
        def write(self, text: str) -> Never:  # noqa: ARG002 - as any stream
            raise error

    with LiveDisplay(Console(file=Broken(), force_terminal=True), clock=clock) as display:
        display(PLANNED)
        display(Note("hello"))
        display(ended("j1", JobState.FAILED))
    with LiveDisplay(Console(file=Broken()), clock=clock) as display:
        display(PLANNED)


def test_a_presigned_url_never_reaches_the_terminal(plain: tuple[LiveDisplay, Output]):
    display, stream = plain
    display(Note("https://b.s3/a?X-Amz-Signature=1 is slow"))
    display(ended("j1", JobState.FAILED, None, "https://b.s3/a?X-Amz-Signature=1 said 403"))

    assert "X-Amz" not in stream.getvalue()


def test_ten_thousand_jobs_leave_nothing_behind(plain: tuple[LiveDisplay, Output]):
    display, _ = plain
    display(RunPlanned("r1", "office", jobs=10_000, reused=0, estimate_usd=None))
    most = 0
    for number in range(10_000):
        for stage in Stage:
            display(StageEntered(str(number), "x", stage))
        most = max(most, len(display._tally.live))
        display(ended(str(number)))

    assert most == 1
    assert display._tally.live == {}
    assert display._tally.ended == 10_000


def test_events_from_many_threads_are_all_counted(live: tuple[LiveDisplay, Console]):
    display, _ = live
    with display:
        display(RunPlanned("r1", "office", jobs=800, reused=0, estimate_usd=None))

        def work(name: str) -> None:
            for number in range(100):
                display(StageEntered(f"{name}-{number}", "x", Stage.POLL))
                display(ended(f"{name}-{number}", cost=0.01))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert display._tally.ended == 800
    assert round(display._tally.cost_usd, 6) == 8.0


def test_it_hears_what_a_run_tells(plain: tuple[LiveDisplay, Output]):
    display, _ = plain
    with observed_by(display):
        tell(PLANNED)

    assert display._tally.jobs == 10


def test_a_job_is_in_one_stage_at_a_time():
    tally = RunCounters()
    tally.count(StageEntered("a", "cat", Stage.SUBMIT))
    tally.count(StageEntered("a", "cat", Stage.POLL))

    assert tally.at(Stage.SUBMIT) == []
    assert tally.at(Stage.POLL) == ["cat"]


def test_a_run_in_which_all_is_there_has_no_time_left():
    tally = RunCounters()
    tally.count(RunPlanned("r1", "office", jobs=2, reused=2, estimate_usd=0.0))

    assert tally.seconds_left(3.0) == 0.0


def summary(**changes: Any):
    fields = {
        "run_id": "r1", "pipeline": "office", "jobs": 3, "persisted": 2, "reused": 1, "failed": 0,
        "cancelled": 0, "in_doubt": 0, "submitted": 2, "cost_usd": 0.28, "seconds": 41.2,
        "report": "out/gallery.html",
    }  # fmt: skip
    return RunSummary.model_validate(fields | changes)


def printed(summary: RunSummary, ui_url: str | None = None):
    console = Console(file=io.StringIO(), width=60, record=True)
    print_summary(console, summary, ui_url)
    return console.export_text()


def stored(uri: str):
    return OutputRecord(
        job="k", item="cat", step="edit", index=0, uri=uri, sha256="a", bytes=1, media_type="i/p"
    )


def test_the_end_says_what_there_is_and_where(tmp_path: Path):
    place = tmp_path / "a folder with a long name so that it would have to be wrapped"
    uris = [(place / f"{name}.png").as_uri() for name in "ab"]
    text = printed(summary(outputs=[stored(uri) for uri in uris]), "http://127.0.0.1:4200/runs/1")

    assert "✓ office  3 jobs: 2 persisted, 1 reused" in text
    assert "$0.28 for 2 submissions" in text
    assert "41 s" in text
    assert f"2 files in {place}\n" in text
    assert "out/gallery.html" in text
    assert "http://127.0.0.1:4200/runs/1" in text


def test_outputs_in_several_folders_of_a_bucket_name_the_first():
    text = printed(summary(outputs=[stored("s3://b/x/1.png"), stored("s3://b/y/1.png")]))

    assert "2 files in s3://b/x and 1 more folder" in text


def test_the_end_tells_errors_by_kind_with_what_to_do():
    errors = [
        ErrorRecord(job="k", item=f"[b]{n}", stage="poll", kind="refused", message="No", hint="Do")
        for n in range(12)
    ]
    text = printed(summary(jobs=15, failed=12, errors=errors))

    assert "✗ office" in text
    assert "refused · 12 jobs" in text
    assert "[b]9 and 2 more" in text
    assert text.count("→ Do") == 1
