"""The summary of a run: the `--json` object, the sentence for the run's state, the exit code."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from comfyline.addresses import without_secrets
from comfyline.errors import Cancelled, ComfylineError, InDoubt
from comfyline.report.words import count


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
    the POSTs of this run, `jobs` all of the plan. An expired job counts as failed.
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
    cost_usd: Dollars
    seconds: Seconds
    report: Text | None = None
    outputs: tuple[OutputRecord, ...] = ()
    errors: tuple[ErrorRecord, ...] = ()

    def to_json(self) -> str:
        """The object on one line."""
        return self.model_dump_json()

    @property
    def unfinished(self) -> int:
        """Jobs of the plan that never came to an end, because the run was stopped before."""
        ended = self.persisted + self.reused + self.failed + self.cancelled + self.in_doubt
        return max(self.jobs - ended, 0)

    @property
    def exit_code(self) -> int:
        """The exit code of the run; a job without outputs and without an error still counts."""
        if self.errors:
            return exit_code(error.kind for error in self.errors)
        return int(self.failed + self.cancelled + self.in_doubt + self.unfinished > 0)


def exit_code(kinds: Iterable[str]) -> int:
    """The exit code for errors of these kinds: 0 for none, the code they share, otherwise 1."""
    known = {error.kind: error.exit_code for error in _error_types(ComfylineError)}
    codes = {known.get(kind, ComfylineError.exit_code) for kind in kinds}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else ComfylineError.exit_code


def headline(summary: RunSummary) -> str:
    """One sentence with the counts and the reasons, short enough for a state message."""
    # Cancelled and in doubt are counted on their own; naming them as reasons would say it twice.
    reasons = Counter(
        error.kind for error in summary.errors if error.kind not in {Cancelled.kind, InDoubt.kind}
    )
    because = ", ".join(f"{kind}: {number}" for kind, number in reasons.most_common())
    parts = [
        f"{number} {word}"
        for number, word in (
            (summary.persisted, "persisted"),
            (summary.reused, "reused"),
            (summary.failed, f"failed ({because})" if because else "failed"),
            (summary.cancelled, "cancelled"),
            (summary.in_doubt, "in doubt"),
            (summary.unfinished, "not finished"),
        )
        if number
    ]
    return f"{count(summary.jobs, 'job')}: {', '.join(parts) or 'nothing to make'}"


def _error_types(base: type[ComfylineError]) -> Iterator[type[ComfylineError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _error_types(derived)
