"""From outcomes to what people and programs read: the summary, the gallery's cards."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from comfyline.errors import Skipped
from comfyline.job import Job, JobState, takes_pending
from comfyline.report.costs import Charge, Costs, total
from comfyline.report.gallery import Card, GalleryHeader
from comfyline.report.summary import ErrorRecord, OutputRecord, RunSummary, cost_in_words
from comfyline.run import Outcome, Run

_ENDS = {
    JobState.PERSISTED: "persisted",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.IN_DOUBT: "in_doubt",
}
_PROMPT_FIELDS = ("prompt", "text", "tags", "lyrics")


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


def header(summary: RunSummary, started: datetime) -> GalleryHeader:
    """Write what the gallery says about the run as a whole."""
    cost, cost_of = cost_in_words(summary)
    return GalleryHeader(
        pipeline=summary.pipeline,
        run_id=summary.run_id,
        started=started.isoformat(),
        seconds=summary.seconds,
        jobs=summary.jobs,
        persisted=summary.persisted,
        reused=summary.reused,
        failed=summary.failed,
        cancelled=summary.cancelled,
        in_doubt=summary.in_doubt,
        skipped=summary.skipped,
        unfinished=summary.unfinished,
        cost=cost,
        cost_of=cost_of,
    )


def cards(
    outcomes: Sequence[Outcome], thumbnails: Path, charges: Mapping[str, Sequence[Charge]]
) -> Iterator[Card]:
    """Yield one card a job; `thumbnails` is the folder of small pictures named by SHA-256.

    `charges` are the run's own requests by job key. Of two jobs with one key the first has paid.
    """
    left = dict(charges)
    for outcome in outcomes:
        job, error = outcome.job, outcome.error
        media = outcome.checked.media if outcome.checked else ()
        yield Card(
            title=job.label,
            item=job.item,
            step=job.step,
            model=job.model_id,
            state=outcome.state,
            before=tuple(_thumbnail(thumbnails, part.sha256) for part in media),
            origins=tuple(part.origin.split("?", 1)[0] for part in media),
            after=tuple(_thumbnail(thumbnails, output.sha256) for output in outcome.outputs),
            links=tuple(output.uri for output in outcome.outputs),
            prompt=prompt_of(job),
            settings=_settings(job, {part.pointer[0] for part in media}),
            costs=_costs(outcome, left.pop(outcome.key, ())),
            seconds=outcome.seconds,
            request_id=outcome.request_id,
            message=error.message if error else "",
            hint=error.hint if error else "",
            reused=outcome.reused,
        )


def _costs(outcome: Outcome, charges: Sequence[Charge]) -> Costs:
    if outcome.reused and outcome.cost_usd is not None:
        # Of what was paid for long ago the estimate says nothing any more.
        return Costs(requests=1, cost_usd=outcome.cost_usd, estimate_usd=outcome.cost_usd)
    return total(charges)


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


def _thumbnail(folder: Path, sha256: str) -> Path | None:
    path = folder / f"{sha256}.jpg"
    return path if path.exists() else None


def prompt_of(job: Job) -> str:
    """Return the text that a job asks with, whatever its name in the model; empty for none."""
    found = (job.inputs.get(name) for name in _PROMPT_FIELDS)
    return next((value for value in found if isinstance(value, str) and value), "")


def _settings(job: Job, media_fields: set[str | int]) -> Mapping[str, object]:
    """Return the inputs that are neither the prompt nor a picture: what makes two results differ.

    What another step was to make, and has not made, says nothing to a person.
    """
    left_out = {*_PROMPT_FIELDS, *media_fields}
    left_out |= {name for name, value in job.inputs.items() if takes_pending(value)}
    return {name: value for name, value in job.inputs.items() if name not in left_out}
