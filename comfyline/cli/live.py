"""What a run looks like in the terminal: while it goes on, and when it is over."""

import threading
import time
from collections.abc import Callable, Iterable
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
from comfyline.progress import Event, JobEnded, Note
from comfyline.redact import without_secrets
from comfyline.report.counters import RunCounters
from comfyline.report.format import count, one_line, span, usd
from comfyline.report.summary import RunSummary, cost_in_words, headline, troubles

SECONDS_BETWEEN_LINES = 5.0
"""How often a run without a terminal tells how far it is."""

_LABELS = 10
"""How many jobs a stage names at most; few fit into a line."""


class LiveDisplay:
    """Shows a run on a console: an observer for `progress.observed_by`, and a context manager.

    On a terminal it keeps a picture of the run at the bottom and prints notes and failures above
    it; elsewhere, or with `live=False` as in CI, it prints plain lines. It may be called from any
    thread and never raises: a broken display must not cost a result that was paid for.
    """

    def __init__(
        self,
        console: Console,
        *,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._wants_live = console.is_terminal and not console.is_dumb_terminal
        if live is not None:
            self._wants_live = live
        self._clock = clock
        self._began = clock()
        self._said_at = float("-inf")
        self._tally = RunCounters()
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._began = self._clock()
        if self._wants_live:
            live = Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                # stdout belongs to the `--json` object.
                redirect_stdout=False,
            )
            if self._harmless(live.start):
                self._live = live
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        was_live = self._live is not None
        if self._live is not None:
            self._harmless(self._live.stop)
            self._live = None
        # After a live picture the summary follows; a run that broke off gets none.
        if not was_live or error is not None:
            with self._lock:
                line = self._status()
            self._say(line)

    def __call__(self, event: Event) -> None:
        """Take one event of the run."""
        self._harmless(lambda: self._take(event))

    def _take(self, event: Event) -> None:
        with self._lock:
            self._tally.count(event)
            lines = [line] if (line := _permanent(event)) else []
            now = self._clock()
            known = self._tally.jobs is not None
            if self._live is None and known and now - self._said_at >= SECONDS_BETWEEN_LINES:
                self._said_at = now
                lines.append(self._status())
        # Printing waits for the refreshing thread, which waits for the lock: so not inside it.
        for line in lines:
            self._say(line)

    def _say(self, line: Text) -> None:
        self._harmless(lambda: self._console.print(line, soft_wrap=True, highlight=False))

    def _harmless(self, action: Callable[[], object]) -> bool:
        try:
            action()
        # rich leaves by SystemExit when the pipe that it prints to is closed.
        except (Exception, SystemExit):  # noqa: BLE001 - the run goes on without its display
            return False
        return True

    def _elapsed(self) -> float:
        return float(int(self._clock() - self._began))

    def _status(self) -> Text:
        """Return the state of the run on one line; the lock is held."""
        tally = self._tally
        total = "…" if tally.jobs is None else f"{tally.jobs:,}"
        parts = [f"{tally.ended:,}/{total} jobs"]
        parts += [f"{stage} {number}" for stage in Stage if (number := len(tally.at(stage))) > 0]
        if tally.troubled:
            parts.append(f"{tally.troubled:,} without outputs")
        parts.append(_cost(tally))
        elapsed = self._elapsed()
        parts.append(f"{span(elapsed)} elapsed")
        if tally.ended != tally.jobs:
            parts.append(_left(tally, elapsed))
        return Text(f"{one_line(tally.pipeline) or 'run'}: {' · '.join(parts)}")

    def _picture(self) -> RenderableType:
        with self._lock:
            try:
                return self._draw()
            except Exception:  # noqa: BLE001 - the refreshing thread would die and stay silent
                return Text("")

    def _draw(self) -> RenderableType:
        tally = self._tally
        elapsed = self._elapsed()
        title = Text.assemble(
            (one_line(tally.pipeline) or "starting", "bold"), ("  " + one_line(tally.run_id), "dim")
        )
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(
            ProgressBar(
                total=tally.jobs or 1,
                completed=tally.ended if tally.jobs is not None else 0,
                complete_style="green" if not tally.troubled else "yellow",
                finished_style="green" if not tally.troubled else "yellow",
            ),
            _progress(tally),
        )
        stages = Table.grid(padding=(0, 2), expand=True)
        stages.add_column(no_wrap=True)
        stages.add_column(justify="right", no_wrap=True, min_width=4)
        stages.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for stage in Stage:
            stages.add_row(*_stage_row(stage, tally.at(stage)))
        foot = Text(" · ", style="dim").join(
            [
                Text(f"{len(tally.at(Stage.POLL))} in flight at RunComfy", style="cyan"),
                Text(_cost(tally)),
                Text(f"{span(elapsed)} elapsed"),
                Text(_left(tally, elapsed)),
            ]
        )
        return Group(Text(""), title, bar, stages, foot)


def _permanent(event: Event) -> Text | None:
    """Return the line that stays for this event, if it is worth one."""
    if isinstance(event, Note):
        return Text.assemble(("· ", "cyan"), one_line(without_secrets(event.text)))
    if isinstance(event, JobEnded) and event.state is not JobState.PERSISTED:
        # What RunComfy still has, or what was not begun, has not failed.
        goes_on = event.state in {JobState.SUBMITTED, JobState.PLANNED}
        mark, colour = ("… ", "yellow") if goes_on else ("✗ ", "red")
        state = "not finished" if goes_on else event.state.value.replace("_", " ")
        line = Text.assemble(
            (mark, f"bold {colour}"), (one_line(event.label), "bold"), (f"  {state}", colour)
        )
        return (
            line.append(f": {one_line(without_secrets(' · '.join(event.message.splitlines())))}")
            if event.message
            else line
        )
    return None


def _cost(tally: RunCounters) -> str:
    unknown = f" (unknown for {tally.cost_unknown:,})" if tally.cost_unknown else ""
    if tally.jobs is not None and tally.estimate_usd is None:
        return f"{usd(tally.cost_usd)}{unknown}, estimate unknown"
    return f"{usd(tally.cost_usd)}{unknown} of about {usd(tally.estimate_usd)}"


def _left(tally: RunCounters, elapsed: float) -> str:
    seconds = tally.seconds_left(elapsed)
    return f"{span(seconds if seconds is None else round(seconds))} left"


def _progress(tally: RunCounters) -> Text:
    total = "…" if tally.jobs is None else f"{tally.jobs:,}"
    text = Text(f"{tally.ended:,}/{total}", style="bold")
    if tally.reused:
        text.append(f"  {tally.reused:,} there already", style="blue not bold")
    if tally.troubled:
        text.append(f"  {tally.troubled:,} without outputs", style="red not bold")
    return text


def _stage_row(stage: Stage, labels: list[str]) -> tuple[Text, Text, Text]:
    if not labels:
        return Text(stage, style="dim"), Text("·", style="dim"), Text("")
    # The last to come in are the news.
    names = ", ".join(one_line(label) for label in reversed(labels[-_LABELS:]))
    return Text(stage), Text(f"{len(labels):,}", style="bold"), Text(names, style="dim")


def print_summary(console: Console, summary: RunSummary, ui_url: str | None) -> None:
    """Print the end of a run: what there is, what it cost, what went wrong and what to do."""
    whole = summary.exit_code == 0
    lines = [
        Text(""),
        Text.assemble(
            ("✓ ", "bold green") if whole else ("✗ ", "bold red"),
            (one_line(summary.pipeline), "bold"),
            f"  {headline(summary)}",
        ),
    ]
    for name, value in _facts(summary, ui_url):
        lines.append(Text.assemble((f"  {name:<9}", "dim"), value))
    for trouble in troubles(summary.errors):
        title = f"  {trouble.kind} · {count(trouble.jobs, 'job')}"
        lines += [Text(""), Text(title, style="bold red")]
        lines += [Text(f"    {line}") for line in trouble.lines]
        lines += [Text(f"    → {hint}", style="cyan") for hint in trouble.hints]
    for line in lines:
        # Unwrapped, so that paths and addresses can be copied and clicked.
        console.print(line, soft_wrap=True, highlight=False)


def _facts(summary: RunSummary, ui_url: str | None) -> Iterable[tuple[str, str]]:
    yield "cost", " ".join(cost_in_words(summary))
    yield "time", span(summary.seconds)
    folders = list(dict.fromkeys(_folder(output.uri) for output in summary.outputs))
    if folders:
        more = f" and {count(len(folders) - 1, 'more folder')}" if len(folders) > 1 else ""
        yield "outputs", f"{count(len(summary.outputs), 'file')} in {folders[0]}{more}"
    if summary.report:
        yield "gallery", one_line(summary.report)
    if ui_url:
        yield "Prefect", ui_url


def _folder(uri: str) -> str:
    folder = uri.rpartition("/")[0]
    # A person opens a path, and a path may be pasted where a URI may not.
    return one_line(url2pathname(urlsplit(folder).path) if folder.startswith("file:") else folder)
