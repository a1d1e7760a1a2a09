"""The summary of a run: the `--json` object, the sentence for the run's state, the exit code."""

from collections import Counter
from collections.abc import Iterable, Iterator
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
from comfyline.redact import without_secrets
from comfyline.report.costs import estimate_in_words
from comfyline.report.format import count, usd


def _encodable(text: object) -> object:
    # A file name that is not UTF-8 reaches Python with lone surrogates, which JSON cannot carry.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_encodable)]
Told = Annotated[Text, AfterValidator(without_secrets)]
Dollars = Annotated[float, PlainSerializer(lambda amount: round(amount, 6))]
Seconds = Annotated[float, PlainSerializer(lambda seconds: round(seconds, 1))]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OutputRecord(_Record):
    """One stored output of the run, made by it or there already."""

    job: Text
    item: Text
    step: Text
    index: int
    uri: Text
    sha256: str
    bytes: int
    media_type: str


class ErrorRecord(_Record):
    """Why one job has no outputs. `kind` is the stable name of the error; `hint` what to do."""

    job: Text
    item: Text
    stage: str
    kind: str
    message: Told
    request_id: str | None = None
    hint: Told = ""


class RunSummary(_Record):
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
    pipeline: Text
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
    report: Text | None = None
    index: Text | None = None
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
    estimate = estimate_in_words(summary.cost_usd, summary.cost_unknown, summary.estimate_usd)
    if all_unknown and not summary.cost_usd:
        return "unknown", f"for {submissions}{estimate}"
    return usd(summary.cost_usd), f"for {submissions}{more}{estimate}"


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
