"""The summary of a run: the `--json` object, what it cost, its errors told, the exit code."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

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
)
from comfyline.job import JobState
from comfyline.redact import without_secrets
from comfyline.report.format import count, one_line, usd
from comfyline.run import Outcome, Run


def _encodable(text: object) -> object:
    # A file name that is not UTF-8 reaches Python with lone surrogates, which JSON cannot carry.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Encodable = Annotated[str, BeforeValidator(_encodable)]
Told = Annotated[Encodable, AfterValidator(without_secrets)]
Dollars = Annotated[float, PlainSerializer(lambda amount: round(amount, 6))]
Seconds = Annotated[float, PlainSerializer(lambda seconds: round(seconds, 1))]


class Record(BaseModel):
    """One object of `--json`: of these fields only, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    message: Told
    request_id: str | None = None
    hint: Told = ""


class RunSummary(Record):
    """What a run did, field by field as `--json` prints it.

    `persisted` were made and stored by this run, `reused` were there already; `submitted` counts
    the POSTs of this run, `jobs` all of the plan. An expired job counts as failed; `skipped` are
    those that need what a failed one would have made; `unfinished` are not at an end: still at
    RunComfy, not begun, or not fetched yet. `jobs` is the sum of those seven.

    `cost_usd` is what RunComfy told of this run's requests; of `cost_unknown` requests it told
    nothing, which is not free. `estimate_usd` is what the same requests were expected to cost,
    None when one of the prices was unknown. `report` is the gallery's path, `index` that of the run
    index, which holds one line for every output.
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
    seconds: Seconds
    report: Encodable | None = None
    index: Encodable | None = None
    outputs: tuple[OutputRecord, ...] = ()
    errors: tuple[ErrorRecord, ...] = ()

    def to_json(self) -> str:
        """Write the object on one line."""
        return self.model_dump_json()

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


@dataclass(frozen=True, slots=True)
class Charge:
    """One request that may have been charged, in US dollars; None is unknown, and never free."""

    cost_usd: float | None
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Several charges: the sum of what is known, and for how many of them nothing is.

    `estimate_usd` is None when one of the estimates is unknown: a sum without it would be too low.
    """

    requests: int = 0
    cost_usd: float = 0.0
    unknown: int = 0
    estimate_usd: float | None = 0.0

    @property
    def words(self) -> str:
        """`$1.40, estimated $1.26`; empty when there was nothing to pay for."""
        if not self.requests:
            return ""
        paid = _paid_in_words(self.cost_usd, self.unknown, self.requests)
        return paid + _estimate_in_words(self.cost_usd, self.unknown, self.estimate_usd)


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
    )


def _paid_in_words(cost_usd: float, unknown: int, requests: int) -> str:
    """Write `$1.40`, `$1.12, unknown for 2 of 10`, or `unknown` where RunComfy told nothing."""
    if not unknown:
        return usd(cost_usd)
    if unknown >= requests:
        return "unknown"
    return f"{usd(cost_usd)}, unknown for {unknown:,} of {requests:,}"


def paid_together(several: Iterable[Costs]) -> str:
    """Merge several costs into one, without their estimates; empty without any request."""
    listed = [costs for costs in several if costs.requests]
    if not listed:
        return ""
    known, unknown = sum(c.cost_usd for c in listed), sum(c.unknown for c in listed)
    return _paid_in_words(known, unknown, sum(c.requests for c in listed))


def _estimate_in_words(cost_usd: float, unknown: int, estimate_usd: float | None) -> str:
    """Say what there is to say of the estimate behind the cost; nothing where it was right."""
    if estimate_usd is None:
        return ", estimate unknown"
    if not unknown and usd(cost_usd) == usd(estimate_usd):
        return ""
    return f", estimated {usd(estimate_usd)}"


_ENDS = {
    JobState.PERSISTED: "persisted",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.IN_DOUBT: "in_doubt",
}


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
    counts = Counter(map(_counted, outcomes))
    return RunSummary(
        run_id=run.id,
        pipeline=run.pipeline,
        jobs=len(outcomes),
        persisted=counts["persisted"],
        reused=counts["reused"],
        failed=counts["failed"],
        cancelled=counts["cancelled"],
        in_doubt=counts["in_doubt"],
        submitted=run.submitted,
        skipped=counts["skipped"],
        unfinished=counts["unfinished"],
        cost_usd=costs.cost_usd,
        estimate_usd=costs.estimate_usd,
        cost_unknown=costs.unknown,
        seconds=seconds,
        report=report,
        index=index,
        outputs=tuple(_output_records(outcomes)),
        errors=tuple(_error_records(outcomes)),
    )


def _counted(outcome: Outcome) -> str:
    """Return the one number of the summary in which a job counts."""
    if outcome.reused:
        return "reused"
    if isinstance(outcome.error, Skipped):
        return "skipped"
    return _ENDS.get(outcome.state, "unfinished")


def _output_records(outcomes: Sequence[Outcome]) -> Iterator[OutputRecord]:
    for outcome in outcomes:
        for output in outcome.outputs:
            yield OutputRecord(
                job=outcome.key,
                item=outcome.job.item,
                step=outcome.job.step,
                index=output.index,
                uri=output.uri,
                sha256=output.sha256,
                bytes=output.bytes,
                media_type=output.media_type,
            )


def _error_records(outcomes: Sequence[Outcome]) -> Iterator[ErrorRecord]:
    for outcome in outcomes:
        if outcome.error is not None:
            yield ErrorRecord(
                job=outcome.key or outcome.job.label,
                item=outcome.job.item,
                stage=outcome.stage or "",
                kind=outcome.error.kind,
                message=outcome.error.message,
                request_id=outcome.request_id,
                hint=outcome.error.hint,
            )


def exit_code(kinds: Iterable[str]) -> int:
    """Return the exit code for errors of these kinds: 0 for none, the code they share, otherwise 1.

    What was skipped or not begun counts only by itself: why is told by the error of what it needs.
    """
    known = {error.kind: error.exit_code for error in _error_types(ComfylineError)}
    told = set(kinds)
    causes = told - {Skipped.kind, NotBegun.kind} or told
    codes = {known.get(kind, ComfylineError.exit_code) for kind in causes}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else ComfylineError.exit_code


def headline(summary: RunSummary) -> str:
    """Write one sentence with the counts and the reasons, short enough for a state message."""
    # These are counted on their own; naming them as reasons would say it twice.
    counted = {Cancelled.kind, InDoubt.kind, Skipped.kind}
    reasons = Counter(error.kind for error in summary.errors if error.kind not in counted)
    going_on = {kind: reasons.pop(kind) for kind in list(reasons) if kind in _GOING_ON}
    because, until_later = _listed(reasons), _listed(Counter(going_on))
    parts = [
        f"{number} {word}"
        for number, word in (
            (summary.persisted, "persisted"),
            (summary.reused, "reused"),
            (summary.failed, f"failed{because}"),
            (summary.cancelled, "cancelled"),
            (summary.in_doubt, "in doubt"),
            (summary.skipped, "skipped"),
            (summary.unfinished, f"not finished{until_later}"),
        )
        if number
    ]
    return f"{count(summary.jobs, 'job')}: {', '.join(parts) or 'nothing to make'}"


def _listed(reasons: Counter[str]) -> str:
    because = ", ".join(f"{kind}: {number}" for kind, number in reasons.most_common())
    return f" ({because})" if because else ""


def cost_in_words(summary: RunSummary) -> tuple[str, str]:
    """Say what the run cost, and for what; with the estimate where it is another or unknown.

    `$1.12` and `for 10 submissions, unknown for 2 of them, estimated $1.40`.
    """
    submissions = count(summary.submitted, "submission")
    if not summary.submitted and not summary.cost_unknown and not summary.cost_usd:
        return usd(summary.cost_usd), f"for {submissions}"
    all_unknown = summary.cost_unknown >= max(summary.submitted, 1)
    more = f", unknown for {summary.cost_unknown:,} of them" if summary.cost_unknown else ""
    estimate = _estimate_in_words(summary.cost_usd, summary.cost_unknown, summary.estimate_usd)
    if all_unknown and not summary.cost_usd:
        return "unknown", f"for {submissions}{estimate}"
    return usd(summary.cost_usd), f"for {submissions}{more}{estimate}"


_NAMED = 10
"""How many items of one kind of error are named before `and N more`."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """All errors of one kind: how many jobs, what happened to which items, what to do."""

    kind: str
    jobs: int
    lines: tuple[str, ...]
    hints: tuple[str, ...]


def troubles(errors: Iterable[ErrorRecord]) -> list[Trouble]:
    """Group the errors by kind, in the order in which each kind first came up."""
    kinds: defaultdict[str, list[ErrorRecord]] = defaultdict(list)
    for error in errors:
        kinds[error.kind].append(error)
    return [
        Trouble(
            kind,
            jobs=len(alike),
            lines=tuple(_lines(alike)),
            hints=tuple(dict.fromkeys(one_line(e.hint) for e in alike if e.hint))[:_NAMED],
        )
        for kind, alike in kinds.items()
    ]


def _lines(alike: list[ErrorRecord]) -> Iterable[str]:
    messages = {one_line(error.message) for error in alike}
    named = [(one_line(error.item) or error.job, error) for error in alike[:_NAMED]]
    more = f"and {len(alike) - _NAMED:,} more" if len(alike) > _NAMED else ""
    if len(messages) == 1:
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


def _error_types(base: type[ComfylineError]) -> Iterator[type[ComfylineError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _error_types(derived)


_GOING_ON = frozenset(
    error.kind
    for base in (TryLater, Unreachable, Interrupted, BrokenOutput, NotBegun)
    for error in _error_types(base)
)
"""What is no failure of a job: it goes on, or was not begun, and the next run takes it up."""
