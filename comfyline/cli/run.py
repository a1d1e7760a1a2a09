"""run, generate, reconcile: the commands that make something, each a flow in this process."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from comfyline.cli.console import answer, errors, explain, say
from comfyline.cli.interruption import interruptible
from comfyline.cli.live import LiveDisplay, print_summary
from comfyline.cli.options import (
    AllowUnknownCost,
    Json,
    Limit,
    MaxCost,
    Overrides,
    Profile,
    Refresh,
    Unchecked,
    Verify,
)
from comfyline.cli.prefect import (
    Flow,
    PrefectIsGone,
    connect,
    leave_at_once,
    page,
    page_password,
    run_flow,
)
from comfyline.config.account import acting_for
from comfyline.config.environment import check_token, needed_services, profile_account
from comfyline.errors import (
    ComfylineError,
    InputInvalid,
    Interrupted,
    Problem,
    UsageError,
)
from comfyline.job import JobState
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.pipeline.sources import read_items
from comfyline.progress import Event, Observer, RunReported, observed_by
from comfyline.report.counters import Tally
from comfyline.report.summary import ErrorRecord, RunSummary
from comfyline.run import CancelToken, cancelled_by
from flows.parameters import handed_over, kept_out_of_prefect


def run(
    pipeline: Path,
    /,
    *,
    profile: Profile = "sandbox",
    overrides: Overrides = (),
    limit: Limit = None,
    refresh: Refresh = False,
    max_cost: MaxCost = None,
    allow_unknown_cost: AllowUnknownCost = False,
    verify: Verify = False,
    unchecked: Unchecked = False,
    json_output: Json = False,
) -> int:
    """Run a pipeline to its end with live progress; makes only what is not there yet.

    Example: comfyline run configs/pipelines/office-scenes.yaml --limit 2

    Parameters
    ----------
    pipeline
        The pipeline's YAML file.
    """
    read: list[Pipeline] = []

    def check() -> None:
        read.append(load_pipeline(pipeline, overrides))
        asyncio.run(_check_items(read[0], limit))

    async def flow() -> Any:
        from flows.pipeline import pipeline as pipeline_flow

        with kept_out_of_prefect(overrides=list(overrides)) as stored, handed_over(*read):
            return await pipeline_flow(
                path=str(pipeline),
                profile=profile,
                limit=limit,
                refresh=refresh,
                max_cost_usd=max_cost,
                allow_unknown_cost=allow_unknown_cost,
                verify=verify,
                unchecked=unchecked,
                return_state=True,
                **stored,
            )

    return _carry_out(pipeline.stem, profile, check, flow, json_output=json_output)


async def _check_items(pipeline: Pipeline, limit: int | None) -> None:
    await read_items(pipeline, None, limit)


def generate(
    model_id: str,
    /,
    *,
    inputs: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--input", "-i"],
            negative="",
            help="key=value; @photo.jpg as the value takes a file; repeated keys make a list.",
        ),
    ] = (),
    input_file: Annotated[
        Path | None, Parameter(help="A JSON file with the inputs; -i overrides it.")
    ] = None,
    output: Annotated[
        str, Parameter(name="--to", help="Where the outputs go: a folder or s3://…")
    ] = "outputs/generate",
    profile: Profile = "sandbox",
    refresh: Refresh = False,
    max_cost: MaxCost = None,
    allow_unknown_cost: AllowUnknownCost = False,
    unchecked: Unchecked = False,
    json_output: Json = False,
) -> int:
    """Make one ad-hoc request through the same six tasks.

    Example: comfyline generate google/nano-banana/pro/edit -i prompt="at night" -i
    image_urls=@photo.jpg

    Parameters
    ----------
    model_id
        The model, as the catalogue names it.
    """
    asked: dict[str, Any] = {}

    def check() -> None:
        asked.update(_read_inputs(inputs, input_file))

    async def flow() -> Any:
        from flows.generate import generate as generate_flow

        with kept_out_of_prefect(inputs=asked, output=output) as stored:
            return await generate_flow(
                model_id=model_id,
                profile=profile,
                refresh=refresh,
                max_cost_usd=max_cost,
                allow_unknown_cost=allow_unknown_cost,
                unchecked=unchecked,
                return_state=True,
                **stored,
            )

    return _carry_out("generate", profile, check, flow, json_output=json_output)


def reconcile(*, profile: Profile = "sandbox", json_output: Json = False) -> int:
    """Finish what an interrupted run left behind: poll, fetch and store what was paid for.

    Example: comfyline reconcile --profile production
    """

    def flow() -> Any:
        from flows.reconcile import reconcile as reconcile_flow

        return reconcile_flow(profile=profile, return_state=True)

    return _carry_out("reconcile", profile, lambda: None, flow, json_output=json_output)


def _carry_out(
    name: str, profile: str, check: Callable[[], None], flow: Flow, *, json_output: bool
) -> int:
    """Check early, start what is needed, run the flow under the display, tell the end."""
    reported: list[RunReported] = []
    tally, began = Tally(), time.monotonic()
    # Not what `asyncio.run` returns: it writes out the repr, for ten thousand outputs in seconds.
    ended: list[RunSummary] = []
    server_is_gone = False
    token = CancelToken()

    async def work() -> None:
        nonlocal server_is_gone
        await connect(needed_services(profile))
        with (
            LiveDisplay(errors) as display,
            observed_by(_keeping(reported, tally, display)),
            cancelled_by(token),
        ):
            try:
                ended.append(await run_flow(flow))
            except PrefectIsGone as gone:
                server_is_gone = True
                if not reported:
                    raise
                say(f"{gone.message}: its page of this run is incomplete, the run is not.")
                ended.append(_written(reported[0]))

    try:
        with acting_for(profile_account(profile)):
            check()
            check_token(profile)
            asyncio.run(interruptible(work(), token))
    except ComfylineError as error:
        explain(error)
        code = error.exit_code
        if json_output:
            answer(_broken_off(name, error, tally, time.monotonic() - began).to_json())
    else:
        [summary] = ended
        code = Interrupted.exit_code if token.is_cancelled else summary.exit_code
        print_summary(errors, summary, page(summary.run_id))
        _tell_password()
        if json_output:
            answer(summary.to_json())
    return leave_at_once(code) if server_is_gone else code


def _tell_password() -> None:
    """Tell Prefect's password, and only to a person at a terminal, for all else may be a log."""
    if password := page_password():
        shown = password if errors.is_terminal else "`comfyline status` shows its password"
        errors.print(Text.assemble(("  login    ", "dim"), shown), soft_wrap=True, highlight=False)


def _keeping(reported: list[RunReported], tally: Tally, display: Observer) -> Observer:
    """Wrap the display's observer; keep what is told and where the run was written down."""

    def observe(event: Event) -> None:
        tally.count(event)
        if isinstance(event, RunReported):
            reported.append(event)
        else:
            display(event)

    return observe


def _written(reported: RunReported) -> RunSummary:
    return RunSummary.model_validate_json(Path(reported.summary).read_bytes())


def _broken_off(name: str, error: ComfylineError, tally: Tally, seconds: float) -> RunSummary:
    """Build the JSON of a run that ended without its own summary, from what it told of its jobs."""
    ends = tally.ends
    counted = {
        "persisted": ends[JobState.PERSISTED],
        "reused": tally.reused,
        "failed": ends[JobState.FAILED] + ends[JobState.EXPIRED],
        "cancelled": ends[JobState.CANCELLED],
        "in_doubt": ends[JobState.IN_DOUBT],
    }
    at_an_end = sum(counted.values())
    jobs = max(tally.jobs or 0, at_an_end)
    problems = error.problems if isinstance(error, InputInvalid) else ()
    said = [(f"{p.where}: {p.message}", p.hint) for p in problems] or [(error.message, error.hint)]
    return RunSummary(
        run_id=tally.run_id,
        pipeline=tally.pipeline or name,
        **counted,
        jobs=jobs,
        unfinished=jobs - at_an_end,
        submitted=tally.submitted,
        cost_usd=tally.cost_usd,
        # What was submitted may have cost more than has been told.
        estimate_usd=None if tally.submitted else 0,
        cost_unknown=tally.cost_unknown,
        seconds=seconds,
        errors=tuple(
            ErrorRecord(job="", item="", stage="", kind=error.kind, message=message, hint=hint)
            for message, hint in said
        ),
    )


def _read_inputs(pairs: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Read the inputs of `generate`: JSON file, then key=value pairs; repeated keys make lists."""
    inputs: dict[str, Any] = _from_file(file) if file else {}
    named: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"-i {pair!r} is no key=value", hint="Write -i prompt='a red door'.")
        named.setdefault(key, []).append(value)
    inputs.update({key: many if len(many) > 1 else many[0] for key, many in named.items()})
    return inputs


def _from_file(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputInvalid([Problem(str(file), f"cannot be read as JSON: {error}")]) from error
    if not isinstance(content, dict):
        raise InputInvalid([Problem(str(file), "is not a JSON object", 'write {"prompt": "…"}')])
    return content
