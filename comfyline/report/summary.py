"""The summary of a run: the `--json` object, its errors by kind, the exit code."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from comfyline.errors import (
    BrokenOutput,
    Cancelled,
    ComfylineError,
    InDoubt,
    Interrupted,
    NotBegun,
    Skipped,
    TryLater,
    Unreachable,
    error_types,
)
from comfyline.job import JobState
from comfyline.redact import without_secrets
from comfyline.report.format import count, one_line, usd
from comfyline.run import Outcome, Run

_NAMED = 10
"""How many items of one kind of error are named before `and N more`."""


def _encodable(text: object) -> object:
    # A file name that is not UTF-8 reaches Python with lone surrogates, which JSON cannot carry.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Encodable = Annotated[str, BeforeValidator(_encodable)]
Message = Annotated[Encodable, AfterValidator(without_secrets)]
Dollars = Annotated[float, PlainSerializer(lambda amount: round(amount, 6))]
Seconds = Annotated[float, PlainSerializer(lambda seconds: round(seconds, 1))]


class Record(BaseModel):
    """One object of `--json`: of these fields only, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """Write the object on one line."""
        return self.model_dump_json()


class OutputRecord(Record):
    """One stored output of the run, made by it or there already."""

    job: Encodable
    item: Encodable
    step: Encodable
    index: int
    uri: Encodable
    sha256: str
    bytes: int
    media_type: str


class ErrorRecord(Record):
    """Why one job has no outputs. `kind` is the stable name of the error; `hint` what to do."""

    job: Encodable
    item: Encodable
    stage: str
    kind: str
    message: Message
    request_id: str | None = None
    hint: Message = ""


class RunSummary(Record):
    """What a run did, field by field as `--json` prints it.

    `persisted` were made and stored by this run, `reused` were there already; `submitted` counts
    the POSTs of this run, `jobs` all of the plan. An expired job counts as failed; `skipped` are
    those that need what a failed one would have made; `unfinished` are not at an end: still at
    RunComfy, not begun, or not fetched yet. `jobs` is the sum of those seven.

    `cost_usd` is what RunComfy charged for this run's requests as far as it says; for
    `cost_unknown` requests it does not, which is not free: `reserved_usd` is set aside for them.
    `estimate_usd` is what the same requests were expected to cost, None when one of the prices was
    unknown. `report` is the path of the gallery, `index` that of the run index, which holds one
    line for every output.
    """

    run_id: str
    pipeline: Encodable
    jobs: int
    persisted: int
    reused: int
    failed: int
    cancelled: int
    in_doubt: int
    submitted: int
    skipped: int = 0
    unfinished: int = 0
    cost_usd: Dollars
    estimate_usd: Dollars | None = None
    cost_unknown: int = 0
    reserved_usd: float = Field(0.0, exclude=True)
    seconds: Seconds
    report: Encodable | None = None
    index: Encodable | None = None
    outputs: tuple[OutputRecord, ...] = ()
    errors: tuple[ErrorRecord, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the run; a job without outputs and without an error still counts.

        Where the run has stored something, RunComfy and the storage could be reached.
        """
        if not self.errors:
            return int(self.jobs > self.persisted + self.reused)
        code = exit_code(error.kind for error in self.errors)
        is_away = code == Unreachable.exit_code
        return ComfylineError.exit_code if is_away and self.persisted else code


class DaySummary(RunSummary):
    """What the run of one day did; its outputs stand in the summary of all days."""

    date: str
    outputs: tuple[OutputRecord, ...] = Field((), exclude=True)


class DaysSummary(RunSummary):
    """What the runs of several days did together, and each of them beside.

    `not_begun` are the days after the one at which it was stopped.
    """

    days: tuple[DaySummary, ...]
    not_begun: tuple[str, ...] = ()


def summary_of_days(days: Sequence[date], summaries: Sequence[RunSummary]) -> DaysSummary:
    """Add up the runs of the first of these days, which have ids and galleries of their own."""
    estimates = [one.estimate_usd for one in summaries if one.estimate_usd is not None]
    return DaysSummary(
        run_id="",
        pipeline=summaries[0].pipeline,
        **{name: sum(getattr(one, name) for one in summaries) for name in _COUNTED},
        estimate_usd=sum(estimates) if len(estimates) == len(summaries) else None,
        outputs=tuple(output for one in summaries for output in one.outputs),
        errors=tuple(error for one in summaries for error in one.errors),
        not_begun=tuple(day.isoformat() for day in days[len(summaries) :]),
        days=tuple(
            DaySummary(date=day.isoformat(), **one.model_dump(exclude={"outputs"}))
            for day, one in zip(days, summaries, strict=False)
        ),
    )


_COUNTED = (
    *("jobs", "persisted", "reused", "failed", "cancelled", "in_doubt", "skipped", "unfinished"),
    *("submitted", "cost_usd", "cost_unknown", "reserved_usd", "seconds"),
)
_ENDS = {
    JobState.PERSISTED: "persisted",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.IN_DOUBT: "in_doubt",
}


@dataclass(frozen=True, slots=True)
class Charge:
    """One request that may have been charged, in US dollars; None is unknown, and never free."""

    cost_usd: float | None
    estimate_usd: float | None
    reserved_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """Several charges: the sum of what is known, and for how many of them nothing is.

    `estimate_usd` is None when one of the estimates is unknown: a sum without it would be too low.
    `reserved_usd` has what was set aside for those of which the cost is unknown.
    """

    requests: int
    cost_usd: float
    unknown: int
    estimate_usd: float | None
    reserved_usd: float = 0.0

    @property
    def amount(self) -> str:
        """Write `$1.40`, or `unknown` where RunComfy said nothing."""
        all_unknown = 0 < self.unknown >= self.requests and not self.cost_usd
        return "unknown" if all_unknown else usd(self.cost_usd)

    @property
    def paid(self) -> str:
        """Write `$1.40, unknown for 2 of 10`: what was paid, without an estimate."""
        if not self.unknown or self.amount == "unknown":
            return self.amount
        return f"{self.amount}, unknown for {self.unknown:,} of {self.requests:,}"

    @property
    def words(self) -> str:
        """Write `$1.40, unknown for 2 of 10, estimated $1.26`: the estimate where it was wrong."""
        if self.estimate_usd is None:
            return f"{self.paid}, estimate unknown"
        was_right = not self.unknown and usd(self.cost_usd) == usd(self.estimate_usd)
        return self.paid if was_right else f"{self.paid}, estimated {usd(self.estimate_usd)}"


def total(charges: Iterable[Charge]) -> Costs:
    """Add charges up."""
    listed = list(charges)
    costs = [charge.cost_usd for charge in listed if charge.cost_usd is not None]
    estimates = [charge.estimate_usd for charge in listed if charge.estimate_usd is not None]
    return Costs(
        requests=len(listed),
        cost_usd=sum(costs),
        unknown=len(listed) - len(costs),
        estimate_usd=sum(estimates) if len(estimates) == len(listed) else None,
        reserved_usd=sum(one.reserved_usd or 0.0 for one in listed if one.cost_usd is None),
    )


def summarise(
    run: Run,
    outcomes: Sequence[Outcome],
    seconds: float,
    report: str | None,
    charges: Mapping[str, Sequence[Charge]],
    index: str | None = None,
) -> RunSummary:
    """Summarise the run in numbers, with every output and every error.

    `charges` are the run's own requests by job key, whatever became of them: what failed, or is in
    doubt, may have cost as well.
    """
    costs = total(charge for of_job in charges.values() for charge in of_job)
    counted = dict.fromkeys((*_ENDS.values(), "reused", "skipped", "unfinished"), 0)
    counted |= Counter(map(_counted, outcomes))
    return RunSummary(
        run_id=run.id,
        pipeline=run.pipeline,
        jobs=len(outcomes),
        **counted,
        submitted=run.submitted,
        cost_usd=costs.cost_usd,
        estimate_usd=costs.estimate_usd,
        cost_unknown=costs.unknown,
        reserved_usd=costs.reserved_usd,
        seconds=seconds,
        report=report,
        index=index,
        outputs=tuple(
            OutputRecord(
                job=one.key,
                item=one.job.item,
                step=one.job.step,
                index=output.index,
                uri=output.uri,
                sha256=output.sha256,
                bytes=output.bytes,
                media_type=output.media_type,
            )
            for one in outcomes
            for output in one.outputs
        ),
        errors=tuple(
            ErrorRecord(
                job=one.key or one.job.label,
                item=one.job.item,
                stage=one.stage or "",
                kind=one.error.kind,
                message=one.error.message,
                request_id=one.request_id,
                hint=one.error.hint,
            )
            for one in outcomes
            if one.error is not None
        ),
    )


def _counted(outcome: Outcome) -> str:
    """Return the one number of the summary in which a job counts."""
    if outcome.reused:
        return "reused"
    if isinstance(outcome.error, Skipped):
        return "skipped"
    return _ENDS.get(outcome.state, "unfinished")


def exit_code(kinds: Iterable[str]) -> int:
    """Return the exit code for errors of these kinds: 0 for none, the code they share, otherwise 1.

    What was skipped or not begun counts only by itself: the error of what it needs says why.
    """
    known = {error.kind: error.exit_code for error in error_types()}
    all_kinds = set(kinds)
    causes = all_kinds - {Skipped.kind, NotBegun.kind} or all_kinds
    codes = {known.get(kind, ComfylineError.exit_code) for kind in causes}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else ComfylineError.exit_code


def headline(summary: RunSummary) -> str:
    """Write one sentence with the counts and the reasons, short enough for a state message."""
    # These are counted on their own; naming them as reasons would repeat them.
    counted = {Cancelled.kind, InDoubt.kind, Skipped.kind}
    reasons = Counter(error.kind for error in summary.errors if error.kind not in counted)
    going_on = Counter({kind: reasons.pop(kind) for kind in list(reasons) if kind in _GOING_ON})
    parts = [
        f"{number} {word}"
        for number, word in (
            (summary.persisted, "persisted"),
            (summary.reused, "reused"),
            (summary.failed, f"failed{_listed(reasons)}"),
            (summary.cancelled, "cancelled"),
            (summary.in_doubt, "in doubt"),
            (summary.skipped, "skipped"),
            (summary.unfinished, f"not finished{_listed(going_on)}"),
        )
        if number
    ]
    return f"{count(summary.jobs, 'job')}: {', '.join(parts) or 'nothing to make'}"


def _listed(reasons: Counter[str]) -> str:
    because = ", ".join(f"{kind}: {number}" for kind, number in reasons.most_common())
    return f" ({because})" if because else ""


def cost_in_words(summary: RunSummary) -> tuple[str, str]:
    """Write what the run cost, and for what, with the estimate where it was wrong or unknown.

    `$1.12` and `for 10 submissions, unknown for 2 of 10, estimated $1.40`.
    """
    costs = Costs(summary.submitted, summary.cost_usd, summary.cost_unknown, summary.estimate_usd)
    remarks = costs.words.removeprefix(costs.amount)
    return costs.amount, f"for {count(summary.submitted, 'submission')}{remarks}"


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """All errors of one kind: how many jobs, what happened to which items, what to do."""

    kind: str
    jobs: int
    lines: tuple[str, ...]
    hints: tuple[str, ...]


def error_groups(errors: Iterable[ErrorRecord]) -> list[ErrorGroup]:
    """Group the errors by kind, in the order in which each kind first came up."""
    kinds: defaultdict[str, list[ErrorRecord]] = defaultdict(list)
    for error in errors:
        kinds[error.kind].append(error)
    return [
        ErrorGroup(
            kind,
            jobs=len(alike),
            lines=tuple(_lines(alike)),
            hints=tuple(dict.fromkeys(one_line(e.hint) for e in alike if e.hint))[:_NAMED],
        )
        for kind, alike in kinds.items()
    ]


def _lines(alike: list[ErrorRecord]) -> Iterator[str]:
    named = [(one_line(error.item) or error.job, error) for error in alike[:_NAMED]]
    more = f"and {len(alike) - _NAMED:,} more" if len(alike) > _NAMED else ""
    if len({one_line(error.message) for error in alike}) == 1:
        yield from _sentences(alike[0].message)
        yield " ".join(filter(None, [", ".join(name for name, _ in named), more]))
        return
    for name, error in named:
        first, *others = _sentences(error.message)
        yield f"{name}: {first}"
        yield from (f"    {other}" for other in others)
    if more:
        yield more


def _sentences(message: str) -> list[str]:
    """Put several mistakes of one job on a line each."""
    return [one_line(line) for line in message.splitlines() if line.strip()] or [""]


_GOING_ON = frozenset(
    error.kind
    for base in (TryLater, Unreachable, Interrupted, BrokenOutput, NotBegun)
    for error in error_types(base)
)
"""What is no failure of a job: it goes on, or was not begun, and the next run takes it up."""
