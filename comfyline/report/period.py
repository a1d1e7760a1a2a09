"""The report of a period: what was made, for how much, what was not paid again, how soon."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from comfyline.report.format import count, one_line, span, usd
from comfyline.report.summary import Dollars, Encodable, Record, Seconds

NOT_SET = "(not set)"
"""How a group without the label is called."""
LISTED = 30
"""Groups that are listed for people; CSV and JSON have all."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula; some take the wide signs as well."""
_MARKDOWN = re.compile(r"[\\|`*_~\[\]!#<>&]")
_MINUTE = "%Y-%m-%d %H:%M"


class Figures(Record):
    """What is told of one group; of a pipeline, a model, a day or a label's value.

    `requests` are those that RunComfy accepted or may have; `stored` of them have all outputs here.
    `failed` have none, those that expired with them; `unfinished` are under way. `cost_usd` is what
    they cost; for `cost_unknown` of them nobody knows it, which is not free.

    Not paid again were `reused` jobs, whose outputs were there; `taken_over` ones, which somebody
    had submitted before; `saved_usd` is what those had cost. `not_repeated` submissions were left
    without an answer, and not sent a second time. Percentiles are in seconds, None without any.
    """

    group: Encodable | None
    requests: int = 0
    stored: int = 0
    failed: int = 0
    cancelled: int = 0
    in_doubt: int = 0
    unfinished: int = 0
    cost_usd: Dollars = 0.0
    cost_unknown: int = 0
    reused: int = 0
    taken_over: int = 0
    saved_usd: Dollars = 0.0
    saved_unknown: int = 0
    not_repeated: int = 0
    queue_p50: Seconds | None = None
    queue_p95: Seconds | None = None
    generation_p50: Seconds | None = None
    generation_p95: Seconds | None = None

    @property
    def name(self) -> str:
        """The group as people read it."""
        return NOT_SET if self.group is None else one_line(self.group)

    @property
    def cost(self) -> str:
        """What it cost, in words."""
        return _money(self.cost_usd, self.cost_unknown)

    @property
    def not_paid_again(self) -> int:
        """How many jobs were not paid for a second time."""
        return self.reused + self.taken_over

    @property
    def saved(self) -> str:
        """What those are worth, in words; empty without any."""
        return _money(self.saved_usd, self.saved_unknown) if self.not_paid_again else ""

    @property
    def queue(self) -> str:
        """How long requests waited, in words."""
        return _spread(self.queue_p50, self.queue_p95)

    @property
    def generation(self) -> str:
        """How long RunComfy worked, in words."""
        return _spread(self.generation_p50, self.generation_p95)


class FailureKind(Record):
    """How many requests ended by one kind of error, and in the period before."""

    kind: Encodable
    number: int
    before: int


class PeriodReport(Record):
    """The report as `--json` prints it: `before` is the period of the same length before."""

    profile: Encodable
    since: datetime
    until: datetime
    by: Encodable
    total: Figures
    before: Figures
    groups: tuple[Figures, ...]
    days: tuple[Figures, ...]
    failures: tuple[FailureKind, ...]

    @property
    def title(self) -> str:
        """The period in words."""
        return f"{self.since:{_MINUTE}} to {self.until:{_MINUTE}} UTC"

    @property
    def listed(self) -> tuple[Figures, ...]:
        """The groups that people see: the dearest, or the last days."""
        return self.groups[-LISTED:] if self.by == "day" else self.groups[:LISTED]


def headline(report: PeriodReport) -> str:
    """Write one sentence with what counts, short enough for a state message."""
    total = report.total
    parts = [f"{count(total.stored, 'job')} made for {total.cost}"]
    if total.not_paid_again:
        parts.append(f"{total.not_paid_again:,} not paid again (worth {total.saved})")
    told = ((total.failed, "failed"), (total.in_doubt, "in doubt"), (total.unfinished, "open"))
    return ", ".join([*parts, *(f"{number:,} {word}" for number, word in told if number)])


def comparison(report: PeriodReport) -> list[tuple[str, ...]]:
    """List the figures of the period beside those of the period before, for people."""
    pair = report.total, report.before
    rows = [
        ("made", [f"{one.stored:,} of {count(one.requests, 'request')}" for one in pair]),
        ("cost", [one.cost for one in pair]),
        ("there already", [f"{one.reused:,}" for one in pair]),
        ("taken over", [f"{one.taken_over:,}" for one in pair]),
        ("worth of these", [one.saved for one in pair]),
        ("not sent again", [f"{one.not_repeated:,}" for one in pair]),
        ("failed", [f"{one.failed:,}" for one in pair]),
        ("cancelled", [f"{one.cancelled:,}" for one in pair]),
        ("in doubt", [f"{one.in_doubt:,}" for one in pair]),
        ("under way", [f"{one.unfinished:,}" for one in pair]),
        (_WAITS[0], [one.queue for one in pair]),
        (_WAITS[1], [one.generation for one in pair]),
    ]
    return [(name, *told) for name, told in rows if set(told) not in ({"0"}, {""})]


_WAITS = ("queue, 50 · 95 %", "generation, 50 · 95 %")
GROUP_COLUMNS = ("made", "failed", "cost", "not paid again", "worth", *_WAITS)


def group_rows(report: PeriodReport) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table of groups for people, and how many more there are."""
    for one in report.listed:
        free = f"{one.not_paid_again:,}" if one.not_paid_again else ""
        numbers = (f"{one.stored:,}", f"{one.failed:,}" if one.failed else "", one.cost)
        yield (one.name, *numbers, free, one.saved, one.queue, one.generation)
    if more := len(report.groups) - len(report.listed):
        told = f"and {more:,} days before" if report.by == "day" else f"and {more:,} more"
        yield (told, *[""] * len(GROUP_COLUMNS))


def csv_text(report: PeriodReport) -> str:
    """Write one line for each group, with a heading, as spreadsheets read it."""
    file = io.StringIO()
    names = [name for name in Figures.model_fields if name != "group"]
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([report.by, *names])
    for one in report.groups:
        values = one.model_dump(mode="json")
        lines.writerow([_cell(values["group"]), *(values[name] for name in names)])
    return file.getvalue()


def markdown(report: PeriodReport) -> str:
    """Write the report for the page of a Prefect run."""
    lines = [
        f"# {report.title}",
        headline(report),
        *_table(("", "now", "before"), comparison(report)),
        *_table((report.by, *GROUP_COLUMNS), group_rows(report)),
    ]
    if report.failures:
        told = ((one.kind, f"{one.number:,}", f"{one.before:,}") for one in report.failures)
        lines += _table(("failure", "now", "before"), told)
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["", *("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)]


def _escaped(text: str) -> str:
    # What a label says comes from items: no picture and no link of theirs belongs on the page.
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _cell(text: str | None) -> str:
    # A spreadsheet would run it, and what a label says comes from items.
    return f"'{text}" if text and text.startswith(_FORMULA) else text or ""


def _money(amount: float, unknown: int) -> str:
    """Write a sum and for how many nobody knows the amount, which is never nought."""
    if not unknown:
        return usd(amount)
    return f"{usd(amount)}, {unknown:,} unknown" if amount else f"{unknown:,} unknown"


def _spread(half: float | None, most: float | None) -> str:
    return "" if half is None else f"{span(half)} · {span(most)}"
