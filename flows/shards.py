"""A run that several workers share: cut by items, given to flow runs of a deployment, joined.

Who works on which shard, and what came of it, is in the ledger alone. Prefect starts the processes,
and is asked only about shards that nobody works on.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Cancelling, Completed, Crashed

from comfyline.errors import ComfylineError, TryLater, Unreachable, UsageError
from comfyline.job import JobState
from comfyline.ledger.shards import ShardRow
from comfyline.ledger.tables import in_batches
from comfyline.plan.preview import Planned
from comfyline.plan.reuse import run_preflight
from comfyline.plan.shards import Shard, ShardResults, entry_of, how_many, parse_shard
from comfyline.progress import (
    BudgetUsed,
    Event,
    JobEnded,
    Note,
    RunPlanned,
    ShardsProgressed,
    Submitted,
    observed_by,
    tell,
)
from comfyline.report.format import count, span, usd
from comfyline.report.summary import RunSummary, summarise
from comfyline.run import Outcome, Run
from comfyline.services import Services
from comfyline.storage.place import all_of
from flows.finish import ended
from flows.parameters import must_be_whole
from flows.schedule import execute, planned_run

DEPLOYMENT = "pipeline/pipeline"
"""Whose flow runs make shards."""

_ANSWERS_WITHIN = 30.0
"""Seconds that Prefect may take over one question."""
_RENEW = 3.0
"""Seconds between two words of a shard to the ledger."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at the shards."""
_LOOK_AT_PREFECT = 3.0
"""Seconds between two looks at the flow runs of shards that nobody has begun."""
_LOG = 15.0
"""Seconds between two lines in the run's log about how far it is."""
_PATIENCE = 60.0
"""Seconds for which the run waits for a worker before it makes its shards itself."""
_STOPPING = 24.0
"""Seconds for which a cancelled run waits for its shards: they hear of it within 3 and take up to
20. Prefect ends its own process after 30."""
_MADE = (JobState.PERSISTED, "posts", "cost_usd", "cost_unknown")
_GIVEN_AT_ONCE = 8
_ASKED_AT_ONCE = 100
_TRIES = 3
"""Workers that a shard is given to, one after another, before the run makes it itself."""

Plan = Callable[[Shard], Awaitable[tuple[Planned, Run]]]
"""Plans one shard."""


def part_of_run(shard: str | None, of_run: str | None) -> Shard | None:
    """Read the parameters that make a flow run a part of another; None for a whole run."""
    if (shard is None) != (of_run is None):
        raise UsageError(
            "`shard` and `of_run` go together",
            hint="Leave both out: a run gives its shards to workers by itself.",
        )
    return None if shard is None else parse_shard(shard)


async def finish_shard(
    shard: Shard,
    run_id: str,
    content: str | None,
    plan: Plan,
    services: Services,
    began: float,
) -> State[RunSummary]:
    """Make a shard in a flow run of its own, and return the state in which it ends.

    Gallery, index and sums are those of the whole run. `began` is as for `finish`. Raises
    `UsageError` where this process would make something else than the run, of another `content`.
    """

    async def plan_the_same(shard: Shard) -> tuple[Planned, Run]:
        planned, run = await plan(shard)
        if content not in {None, _content(planned, services)}:
            raise UsageError(
                "The pipeline is not the same here as where the run was started, so this shard is "
                "not made here",
                hint="Workers need the run's version of the pipeline and its table, its variables "
                "(`env:`) and its profile: deploy these, or run with `--shards 1`.",
            )
        return planned, run

    made = await make_shard(shard, run_id, plan_the_same, services, is_alone=True)
    if made is None:
        return Completed(message=f"Nothing to do: shard {shard} is made elsewhere, or is over")
    run, outcomes = made
    summary = summarise(run, outcomes, time.monotonic() - began, None, {})
    return ended(summary, run.cancel_token)


async def make_shard(
    shard: Shard, run_id: str, plan: Plan, services: Services, *, is_alone: bool = False
) -> tuple[Run, list[Outcome]] | None:
    """Make a shard and tell the run what became of its jobs; None if it is not to be made here.

    `is_alone`: nobody in this process has told of the run.

    When this process dies at any point, its lease lapses and another goes on where it was.
    """
    shards, number = services.ledger.shards, shard.number
    try:
        # First: who cannot even plan it has never had it, and nobody else need try.
        planned, run = await plan(shard)
    except (Unreachable, TryLater):
        if await shards.claim(run_id, number, shard.of):
            await shards.release(run_id, number)
        raise
    claim = await shards.claim(run_id, number, shard.of)
    if claim is None:
        return None
    run.began, sums = claim.began, _Sums(claim.progress)
    try:
        async with _renewing(run_id, number, sums, services):
            if is_alone:
                tell(RunPlanned(run.id, run.pipeline, planned.schedule().jobs, 0, None))
            with observed_by(sums):
                outcomes = await execute(planned.schedule(), run, services)
    except BaseException:
        # What cannot be given up lapses by itself.
        with suppress(ComfylineError):
            await shards.release(run_id, number)
        raise
    if run.cancel_token.hands_over:
        with suppress(ComfylineError):
            await shards.release(run_id, number)
        return run, outcomes
    entries = [entry_of(outcome) for outcome in outcomes if not outcome.reused]
    if not await shards.end(run_id, number, sums.so_far(), entries):
        tell(Note(f"Shard {shard} was taken up by another worker meanwhile, which reports on it"))
    return run, outcomes


@asynccontextmanager
async def _renewing(
    run_id: str, number: int, sums: "_Sums", services: Services
) -> AsyncIterator[None]:
    """Say all through the block that a shard is worked on, and how far it is."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(_RENEW)
            # A lease that lapses costs no money: another goes on with the shard.
            with suppress(ComfylineError):
                await services.ledger.shards.renew(run_id, number, sums.so_far())

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


class _Sums:
    """An observer that counts what a shard's jobs come to.

    It goes on from what an earlier holder has made; what that one has not, it will hear of again.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        made = {name: before[name] for name in _MADE if name in before}
        self._counted: dict[str, float] = defaultdict(float, made)

    def __call__(self, event: Event) -> None:
        match event:
            case Submitted():
                self._counted["posts"] += 1
            case JobEnded():
                self._counted[event.outcome.state] += 1
                self._counted["cost_unknown"] += event.outcome.cost_unknown
                self._counted["cost_usd"] += event.outcome.cost_usd or 0.0
            case BudgetUsed(limit, limit_usd, used_usd):
                # Each shard sees all that the run has used: its parent tells it once.
                self._counted |= {f"{limit}_limit": limit_usd, f"{limit}_used": used_usd}

    def so_far(self) -> dict[str, float]:
        """Return the sums by name."""
        return dict(self._counted)


async def run_in_shards(
    planned: Planned,
    run: Run,
    services: Services,
    *,
    asked: int | None,
    parameters: Mapping[str, Any],
    plan: Plan,
) -> ShardResults:
    """Have other flow runs make most of a run, where it is to be cut; return what they came to.

    `asked` is a number of shards, None for what the pipeline's limits say. `parameters` are what
    this flow run was started with, as Prefect has them.
    """
    shards, limit = services.ledger.shards, planned.pipeline.document.limits.shard
    rows = await shards.of_run(run.id)
    if rows and await services.ledger.is_stopped(run.id):
        # A retry of what was told to stop begins anew, also where it had no time to end.
        await shards.forget(run.id)
        rows = []
    size = planned.schedule().jobs
    is_small = asked == 1 if asked else limit is None or size <= limit
    if not rows and is_small:
        return ShardResults()
    preflight = await run_preflight(planned.schedule(), run, services)
    left = len(preflight.waiting) + sum(checked is not None for _, checked in preflight.to_make)
    of = rows[0].of if rows else how_many(left, planned.dag.items, limit, asked)
    if of == 1:
        return ShardResults()
    must_be_whole(parameters)
    await _must_be_deployed()
    opened = await services.ledger.open_run(run.id, run.pipeline)
    # Of a run whose process died, the shards go on: what failed in them is not asked for again.
    run.began = rows[0].began if rows else opened
    await shards.cut(run.id, of, run.began)
    earlier = await _results(planned, run, services)
    there = earlier.credited(preflight.there, preflight.known, run.id)
    shown = await planned_run(preflight, there, run, services)
    tell(shown)
    tell(Note(f"{count(left, 'job')} to make, in {of} shards"))
    giving = {**parameters, "of_run": run.id, "content": _content(planned, services)}
    run.cancel_token.may_hand_over = True
    try:
        await _Parent(run, services, plan, giving, shown).watch()
    except asyncio.CancelledError:
        # Prefect cancels a worker's flow so; whatever else ends this process leaves them going on.
        with suppress(ComfylineError):
            await services.ledger.stop_run(run.id)
        raise
    finally:
        run.cancel_token.may_hand_over = False
    results = await _results(planned, run, services)
    return replace(results, estimate_usd=shown.estimate_usd)


async def _results(planned: Planned, run: Run, services: Services) -> ShardResults:
    shards = services.ledger.shards
    entries, rows = await shards.entries(run.id), await shards.of_run(run.id)
    return ShardResults(
        entries={(entry["label"], entry["key"]): entry for entry in entries},
        of=max(1, len(rows)),
        cancelled=frozenset(row.number for row in rows if row.has_ended and row.holder is None),
        steps=frozenset(planned.dag.steps_of_items()),
    )


def _content(planned: Planned, services: Services) -> str:
    return f"{planned.content} at {services.settings.runcomfy.account}"


async def _must_be_deployed() -> None:
    """Raise `UsageError` where there is nothing whose flow runs could make shards."""
    found = True
    async with _patiently(), get_client() as prefect:
        try:
            await prefect.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            found = False
    if not found:
        raise UsageError(
            f"The run is to be cut into shards, and this Prefect server has no deployment "
            f"`{DEPLOYMENT}` to give them to",
            hint="`prefect --no-prompt deploy --all` makes it. `--shards 1` runs the pipeline in "
            "this process alone.",
        )


class Step(Enum):
    """What the run does next about one of its shards."""

    WAIT = auto()
    GIVE = auto()
    MAKE_HERE = auto()
    CANCEL = auto()


def next_step(row: ShardRow, state: StateType | None, *, is_quiet: bool) -> Step:
    """Decide about a shard that has not ended.

    `state` is that of the flow run which it was given to, None where that is not known. `is_quiet`:
    for a while no worker has worked on any shard.
    """
    again = Step.GIVE if row.tries < _TRIES else Step.MAKE_HERE
    if row.is_running:
        return Step.WAIT
    if state in {StateType.CANCELLED, StateType.CANCELLING}:
        # Also where its process was killed before it could say so.
        return Step.CANCEL
    if row.is_lost or row.tries == 0:
        return Step.MAKE_HERE if is_quiet else again
    match state:
        case StateType.CRASHED | StateType.COMPLETED:
            return again
        case StateType.FAILED:
            # What its process lacks (a file, a variable), this one has.
            return Step.MAKE_HERE
        case _:
            return Step.MAKE_HERE if is_quiet else Step.WAIT


class _Parent:
    """The run itself, while others make its shards."""

    def __init__(
        self,
        run: Run,
        services: Services,
        plan: Plan,
        parameters: Mapping[str, Any],
        shown: RunPlanned,
    ) -> None:
        self._run = run
        self._services = services
        self._shards = services.ledger.shards
        self._plan = plan
        self._parameters = parameters
        self._shown = shown
        self._mine: asyncio.Task[None] | None = None
        self._states: dict[str, State[Any]] = {}
        self._ended: set[int] = set()
        self._began = self._busy_at = time.monotonic()
        self._asked_at = self._logged_at = float("-inf")
        self._stopped_at: float | None = None

    async def watch(self) -> None:
        """Give the shards to workers, and wait until all have ended or the run is stopped."""
        stopping = asyncio.ensure_future(self._run.cancel_token.cancelled())
        try:
            async with get_client() as prefect:
                while not await self._look(prefect):
                    await asyncio.wait({stopping}, timeout=_LOOK_AGAIN)
                    if stopping.done():
                        await asyncio.sleep(_LOOK_AGAIN / 4)
        finally:
            stopping.cancel()
            if self._mine:
                self._mine.cancel()
                await asyncio.wait([self._mine])

    async def _look(self, prefect: PrefectClient) -> bool:
        """Look once at all shards and do what is to be done; return whether all is over."""
        rows = await self._shards.of_run(self._run.id)
        self._tell(rows)
        if self._mine and self._mine.done():
            mine, self._mine = self._mine, None
            # What keeps this process from making a shard ends the run, and says why.
            mine.result()
        left = [row for row in rows if not row.has_ended]
        if self._run.cancel_token.hands_over:
            tell(
                Note(
                    "This process has to end. Its shards go on: `Retry` on its page, or the same "
                    "run again, goes on with them"
                )
            )
            return True
        if self._run.cancel_token.is_cancelled:
            return await self._stop(left, prefect)
        now = time.monotonic()
        if any(row.is_running and row.holder != self._shards.worker_id for row in left):
            self._busy_at = now
        if now - self._asked_at >= _LOOK_AT_PREFECT or any(row.is_lost for row in left):
            self._asked_at = now
            await self._ask(left, prefect)
        await all_of((self._go_on(row, now, prefect) for row in left), _GIVEN_AT_ONCE)
        # What it has made itself, it still tells Prefect of.
        return not left and self._mine is None

    async def _go_on(self, row: ShardRow, now: float, prefect: PrefectClient) -> None:
        state = self._states.get(row.flow_run_id or "")
        is_quiet = now - self._busy_at >= _PATIENCE
        match next_step(row, state.type if state else None, is_quiet=is_quiet):
            case Step.GIVE:
                await self._give(row)
            case Step.CANCEL:
                await self._shards.cancelled(self._run.id, row.number)
                tell(Note(f"Shard {_name(row)} was cancelled in Prefect: its jobs are left out"))
            case Step.MAKE_HERE if self._mine is None:
                tell(Note(_why_here(row, state)))
                self._mine = asyncio.create_task(self._make_here(row, prefect))

    async def _give(self, row: ShardRow) -> None:
        """Give a shard to a worker: the first time, or because the last one is gone."""
        if row.tries:
            tell(Note(f"Shard {_name(row)} has lost its worker and is given to another"))
        number, tries = row.number, row.tries + 1
        async with _patiently():
            given = await arun_deployment(
                DEPLOYMENT,
                parameters={**self._parameters, "shard": _name(row)},
                flow_run_name=f"{self._run.pipeline} shard {_name(row)}",
                tags=["comfyline", "shard"],
                timeout=0,
                # Whoever does this again, having died right after it, gets the same flow run.
                idempotency_key=f"{self._run.id}/{row.began.isoformat()}/{number}/{tries}",
            )
            await self._shards.given(self._run.id, number, tries, str(given.id))

    async def _make_here(self, row: ShardRow, prefect: PrefectClient) -> None:
        shard = Shard(row.number, row.of)
        made = await make_shard(shard, self._run.id, self._plan, self._services)
        if made is not None and row.flow_run_id:
            message = f"The run itself has made shard {shard}"
            async with _patiently():
                await prefect.set_flow_run_state(UUID(row.flow_run_id), Cancelled(message=message))

    async def _ask(self, left: Sequence[ShardRow], prefect: PrefectClient) -> None:
        """Ask Prefect about the flow runs of shards that nobody works on."""
        ids = [UUID(row.flow_run_id) for row in left if row.flow_run_id and not row.is_running]
        async with _patiently():
            for some in in_batches(ids, _ASKED_AT_ONCE):
                asked = FlowRunFilter(id=FlowRunFilterId(any_=list(some)))
                found = await prefect.read_flow_runs(flow_run_filter=asked, limit=_ASKED_AT_ONCE)
                states = {one.id: one.state for one in found}
                # One that somebody has deleted comes to as much as one that has crashed.
                self._states |= {str(one): states.get(one) or Crashed() for one in some}

    async def _stop(self, left: Sequence[ShardRow], prefect: PrefectClient) -> bool:
        """Tell all shards to stop; return whether all have, or had the time to."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            await self._services.ledger.stop_run(self._run.id)
            ids = [UUID(row.flow_run_id) for row in left if row.flow_run_id]

            async def cancel(flow_run_id: UUID) -> None:
                async with _patiently():
                    await prefect.set_flow_run_state(flow_run_id, Cancelling())

            # Who does not hear of it from Prefect in time, hears of it from the ledger.
            async with _patiently(_STOPPING / 2):
                await all_of(map(cancel, ids), _GIVEN_AT_ONCE)
        waited = time.monotonic() - self._stopped_at
        return waited > _STOPPING or not any(row.is_running for row in left)

    def _tell(self, rows: Sequence[ShardRow]) -> None:
        """Tell how far the shards are; what this process makes itself it has told job by job."""
        others = [row for row in rows if row.holder != self._shards.worker_id]
        tell(_progress(others))
        for row in others:
            for limit in ("run", "day"):
                if limit_usd := row.progress.get(f"{limit}_limit"):
                    tell(BudgetUsed(limit, limit_usd, row.progress[f"{limit}_used"]))
        for row in rows:
            if row.has_ended and row.number not in self._ended:
                self._ended.add(row.number)
                if row.holder:
                    ends = ", ".join(_in_words(_progress([row]))) or "everything was there"
                    tell(Note(f"Shard {_name(row)} has ended: {ends}"))
        now = time.monotonic()
        if now - self._logged_at >= _LOG:
            self._logged_at = now
            get_run_logger().info("%s", self._how_far(_progress(rows), now))

    def _how_far(self, sums: ShardsProgressed, now: float) -> str:
        made, to_make = sum(sums.ends.values()), self._shown.jobs - self._shown.reused
        left = (now - self._began) * (to_make - made) / made if made else None
        of = f"{made} of {count(to_make, 'job')}"
        return " · ".join([of, *_in_words(sums), usd(sums.cost_usd), f"{span(left)} left"])


@asynccontextmanager
async def _patiently(seconds: float = _ANSWERS_WITHIN) -> AsyncIterator[None]:
    """Ask Prefect something; what it does not answer is asked again at the next look."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, httpx.HTTPError, PrefectException, RuntimeError) as error:
        # A plain RuntimeError is how its client says that the server is away.
        get_run_logger().debug("Prefect does not answer: %s", type(error).__name__)


def _name(row: ShardRow) -> str:
    return str(Shard(row.number, row.of))


def _why_here(row: ShardRow, state: State[Any] | None) -> str:
    if not row.tries:
        return f"Prefect does not take shard {_name(row)}: this process makes it"
    if state and state.is_failed():
        return f"No worker can make shard {_name(row)}: this process makes it. {state.message}"
    if row.tries >= _TRIES and row.is_lost:
        return f"Shard {_name(row)} has lost {row.tries} workers: this process makes it"
    return (
        f"No worker has begun shard {_name(row)} within {span(_PATIENCE)}: this process makes it. "
        "Start one with: prefect worker start --pool comfyline"
    )


def _in_words(sums: ShardsProgressed) -> list[str]:
    return [f"{number} {state.replace('_', ' ')}" for state, number in sums.ends.items()]


def _progress(rows: Sequence[ShardRow]) -> ShardsProgressed:
    sums: Counter[str] = Counter()
    for row in rows:
        sums.update(row.progress)
    return ShardsProgressed(
        ends={state: int(sums[state]) for state in JobState if sums[state]},
        submitted=int(sums["posts"]),
        cost_usd=float(sums["cost_usd"]),
        cost_unknown=int(sums["cost_unknown"]),
    )
