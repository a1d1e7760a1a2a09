"""What a run looks like in the terminal: while it goes on, and when it is over."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from comfyline.job import JobState, Stage
from comfyline.progress import (
    Event,
    JobEnded,
    Note,
    RunPlanned,
    RunReported,
    ShardsProgressed,
    StageEntered,
    Submitted,
)
from comfyline.redact import without_secrets
from comfyline.report.format import count, one_line, span, usd
from comfyline.report.summary import DaysSummary, RunSummary, cost_in_words, error_groups, headline

_SECONDS_BETWEEN_LINES = 5.0
"""How often a run without a terminal prints how far it is."""

_LABELS = 10
"""How many jobs a stage names at most; few fit into a line."""

# rich leaves by SystemExit when the pipe that it prints to is closed.
_harmless = suppress(Exception, SystemExit)
"""A broken display must not cost a result that was paid for."""


@dataclass(slots=True)
class RunCounters:
    """Counts the events of one run.

    It holds one small record for each job that is under way and forgets it when the job ends, so
    that its size follows the number of jobs at a time and not of jobs in all. Not thread-safe.
    """

    pipeline: str = ""
    run_id: str = ""
    jobs: int | None = None
    reused: int = 0
    estimate_usd: float | None = None
    cost_usd: float = 0.0
    cost_unknown: int = 0
    submitted: int = 0
    ends: Counter[JobState] = field(default_factory=Counter)
    live: dict[str, tuple[str, Stage]] = field(default_factory=dict)
    elsewhere: ShardsProgressed = field(default_factory=ShardsProgressed)

    def count(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, RunPlanned):
            self.pipeline, self.run_id = event.pipeline, event.run_id
            self.jobs, self.reused = event.jobs, event.reused
            self.estimate_usd = event.estimate_usd
        elif isinstance(event, StageEntered):
            # Taken out first, so that a stage lists its jobs in the order they came in.
            self.live.pop(event.job, None)
            self.live[event.job] = (event.label, event.stage)
        elif isinstance(event, Submitted):
            self.submitted += 1
        elif isinstance(event, JobEnded):
            self.live.pop(event.outcome.job.label, None)
            self.ends[event.outcome.state] += 1
            self.cost_usd += event.outcome.cost_usd or 0.0
            self.cost_unknown += event.outcome.cost_unknown
        elif isinstance(event, ShardsProgressed):
            # In the place of what they had told before.
            before, self.elsewhere = self.elsewhere, event
            self.ends.update(event.ends)
            self.ends.subtract(before.ends)
            self.submitted += event.submitted - before.submitted
            self.cost_usd += event.cost_usd - before.cost_usd
            self.cost_unknown += event.cost_unknown - before.cost_unknown

    @property
    def made(self) -> int:
        """Jobs that this run brought to an end, whichever."""
        return self.ends.total()

    @property
    def ended(self) -> int:
        """Jobs at their end, with those that were there already."""
        ended = self.made + self.reused
        return ended if self.jobs is None else min(ended, self.jobs)

    @property
    def failed(self) -> int:
        """Jobs that ended without their outputs."""
        return self.made - self.ends[JobState.PERSISTED]

    def at(self, stage: Stage) -> list[str]:
        """Return the labels of the jobs that are in this stage now."""
        return [label for label, where in self.live.values() if where is stage]

    def seconds_left(self, elapsed: float) -> float | None:
        """Tell how long the rest takes at the pace so far; None while there is no pace yet."""
        if self.jobs is None:
            return None
        rest = self.jobs - self.ended
        if rest == 0:
            return 0.0
        return rest * elapsed / self.made if self.made else None


class LiveDisplay:
    """Show a run on a console: an observer for `progress.observed_by`, and a context manager.

    On a terminal it keeps a picture of the run at the bottom and prints notes and failures above
    it; elsewhere it prints plain lines. It may be called from any thread and never raises.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counters = RunCounters()
        self.reported: Path | None = None
        """Where the summary of the run lies, once it is written."""
        self._console = console
        self._clock = clock
        self._began = clock()
        self._printed_at = float("-inf")
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=lambda: self,
            console=console,
            refresh_per_second=8,
            transient=True,
            # stdout belongs to the `--json` object.
            redirect_stdout=False,
        )
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> Self:
        self._began = self._clock()
        if self._is_live:
            with _harmless:
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _harmless:
            self._live.stop()
        # After a live picture the summary follows; a run that broke off gets none.
        if not self._is_live or error is not None:
            with self._lock:
                line = self._status()
            self._print(line)

    def __call__(self, event: Event) -> None:
        """Take one event of the run."""
        with self._lock:
            self.counters.count(event)
            if isinstance(event, RunReported):
                self.reported = Path(event.summary)
        with _harmless:
            lines = [line] if (line := _permanent(event)) else []
            with self._lock:
                now = self._clock()
                is_due = now - self._printed_at >= _SECONDS_BETWEEN_LINES
                if not self._is_live and self.counters.jobs is not None and is_due:
                    self._printed_at = now
                    lines.append(self._status())
            # Printing waits for the refreshing thread, which waits for the lock.
            for one in lines:
                self._print(one)

    def __rich__(self) -> RenderableType:
        """Draw the picture of the run."""
        with self._lock:
            # Else the refreshing thread would die and stay silent.
            with _harmless:
                return self._draw()
            return ""

    def _print(self, line: Text) -> None:
        with _harmless:
            self._console.print(line, soft_wrap=True, highlight=False)

    def _pace(self) -> list[str]:
        """Return what the run costs, how long it took and how long it takes."""
        run, elapsed = self.counters, float(int(self._clock() - self._began))
        unknown = f" (unknown for {run.cost_unknown:,})" if run.cost_unknown else ""
        is_unknown = run.jobs is not None and run.estimate_usd is None
        of = ", estimate unknown" if is_unknown else f" of about {usd(run.estimate_usd)}"
        parts = [f"{usd(run.cost_usd)}{unknown}{of}", f"{span(elapsed)} elapsed"]
        if run.ended != run.jobs:
            left = run.seconds_left(elapsed)
            parts.append(f"{span(left if left is None else round(left))} left")
        return parts

    def _status(self) -> Text:
        """Return the state of the run on one line; the lock is held."""
        run = self.counters
        parts = [f"{run.ended:,}/{_total(run)} jobs"]
        parts += [f"{stage} {number}" for stage in Stage if (number := len(run.at(stage)))]
        if run.failed:
            parts.append(f"{run.failed:,} without outputs")
        return Text(f"{one_line(run.pipeline) or 'run'}: {' · '.join([*parts, *self._pace()])}")

    def _draw(self) -> RenderableType:
        run = self.counters
        name = one_line(run.pipeline) or "starting"
        title = Text.assemble((name, "bold"), (f"  {one_line(run.run_id)}", "dim"))
        done = Text(f"{run.ended:,}/{_total(run)}", "bold")
        if run.reused:
            done.append(f"  {run.reused:,} there already", "blue not bold")
        if run.failed:
            done.append(f"  {run.failed:,} without outputs", "red not bold")
        colour = "yellow" if run.failed else "green"
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(
            ProgressBar(
                total=run.jobs or 1,
                completed=run.ended if run.jobs is not None else 0,
                complete_style=colour,
                finished_style=colour,
            ),
            done,
        )
        stages = Table.grid(padding=(0, 2), expand=True)
        stages.add_column(no_wrap=True)
        stages.add_column(justify="right", no_wrap=True, min_width=4)
        stages.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for stage in Stage:
            labels = run.at(stage)
            # The last to come in are the news.
            names = Text(", ".join(map(one_line, labels[: -_LABELS - 1 : -1])), "dim")
            number = Text(f"{len(labels):,}", "bold") if labels else Text("·", "dim")
            stages.add_row(Text(stage, "" if labels else "dim"), number, names)
        in_flight = (f"{len(run.at(Stage.POLL))} in flight at RunComfy", "cyan")
        foot = Text.assemble(in_flight, f" · {' · '.join(self._pace())}")
        return Group(Text(), title, bar, stages, foot)


def _total(run: RunCounters) -> str:
    return "…" if run.jobs is None else f"{run.jobs:,}"


def _permanent(event: Event) -> Text | None:
    """Return the line that stays for this event, if it is worth one."""
    match event:
        case Note(text):
            return Text.assemble(("· ", "cyan"), one_line(without_secrets(text)))
        case JobEnded(outcome) if outcome.state is not JobState.PERSISTED:
            # What RunComfy still has, or what was not begun, has not failed.
            goes_on = outcome.state in {JobState.SUBMITTED, JobState.PLANNED}
            mark, colour = ("… ", "yellow") if goes_on else ("✗ ", "red")
            state = "not finished" if goes_on else outcome.state.replace("_", " ")
            message = without_secrets(str(outcome.error or ""))
            message = one_line(" · ".join(message.splitlines()))
            return Text.assemble(
                (mark, f"bold {colour}"),
                (one_line(outcome.job.label), "bold"),
                (f"  {state}", colour),
                f": {message}" if message else "",
            )
        case _:
            return None


def print_summary(console: Console, summary: RunSummary, ui_url: str | None) -> None:
    """Print the end of a run: what there is, what it cost, what went wrong and what to do."""
    mark = ("✓ ", "bold green") if summary.exit_code == 0 else ("✗ ", "bold red")
    pipeline = (one_line(summary.pipeline), "bold")
    lines = [Text(), Text.assemble(mark, pipeline, f"  {headline(summary)}")]
    for name, value in _facts(summary, ui_url):
        lines.append(Text.assemble((f"  {name:<9}", "dim"), value))
    for group in error_groups(summary.errors):
        lines += [Text(), Text(f"  {group.kind} · {count(group.jobs, 'job')}", "bold red")]
        lines += [Text(f"    {line}") for line in group.lines]
        lines += [Text(f"    → {hint}", "cyan") for hint in group.hints]
    for line in lines:
        # Unwrapped, so that paths and addresses can be copied and clicked.
        console.print(line, soft_wrap=True, highlight=False)


def _facts(summary: RunSummary, ui_url: str | None) -> Iterator[tuple[str, str]]:
    yield "cost", " ".join(cost_in_words(summary))
    yield "time", span(summary.seconds)
    folders = list(dict.fromkeys(_folder(output.uri) for output in summary.outputs))
    if folders:
        more = f" and {count(len(folders) - 1, 'more folder')}" if len(folders) > 1 else ""
        yield "outputs", f"{count(len(summary.outputs), 'file')} in {folders[0]}{more}"
    if isinstance(summary, DaysSummary) and summary.not_begun:
        yield "left", f"{len(summary.not_begun)} of the days, from {summary.not_begun[0]} on"
    if summary.report:
        yield "gallery", one_line(summary.report)
    if ui_url:
        yield "Prefect", ui_url


def _folder(uri: str) -> str:
    folder = uri.rpartition("/")[0]
    # A person opens a path, and a path may be pasted where a URI may not.
    return one_line(url2pathname(urlsplit(folder).path) if folder.startswith("file:") else folder)
