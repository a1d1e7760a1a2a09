"""What a run tells Prefect, so that automations can act on it: events of the run and its jobs.

The same goes to the log as fields, where logs are JSON. No event holds an address with its query.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.events import emit_event
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.exceptions import PrefectException

from comfyline.job import Job, JobState
from comfyline.ledger.tables import in_batches
from comfyline.progress import (
    BudgetUsed,
    DoubtFound,
    Event,
    JobAccepted,
    JobEnded,
    ResultsAtRisk,
    RunEnded,
    RunPlanned,
)
from comfyline.redact import for_people
from comfyline.report.format import span
from comfyline.report.summary import RunSummary
from comfyline.run import Outcome
from comfyline.telemetry.logs import FIELDS

log = logging.getLogger("comfyline.events")

_ENDS = frozenset(
    {
        JobState.PERSISTED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.IN_DOUBT,
        JobState.EXPIRED,
    }
)
_KEY = 12
"""How much of a job's key names its resource."""

_PAGE = 50
"""Events that Prefect tells at a time."""

_MOST_OF_IT = 0.8
"""The share of a limit from which on somebody may want to know."""


class RunEvents:
    """Emits the events of one run; an observer for `progress.observed_by`.

    A shard tells of its jobs, and its parent of the run.
    """

    def __init__(self, run_id: str, *, is_shard: bool = False) -> None:
        self._run_id = run_id
        self._is_shard = is_shard
        self._pipeline = ""
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take one event of the run in."""
        match event:
            case RunPlanned():
                self._pipeline = event.pipeline
                self._run_once(
                    "started",
                    jobs=event.jobs,
                    reused=event.reused,
                    estimate_usd=event.estimate_usd,
                )
            case JobAccepted(checked, request_id):
                self._job("submitted", checked.key, checked.job, request_id=request_id)
            case JobEnded(outcome) if outcome.state in _ENDS and not outcome.reused:
                self._ended(outcome)
            case BudgetUsed() if event.used_usd >= _MOST_OF_IT * event.limit_usd:
                self._run_once(
                    "budget", spent=event.used_usd, limit=event.limit_usd, limit_of=event.limit
                )
            case DoubtFound(key, job, reason):
                self._job("in_doubt", key, job, reason=reason)
            case ResultsAtRisk():
                risk = {
                    "count": event.jobs,
                    "oldest": span(event.oldest_seconds),
                    "oldest_seconds": event.oldest_seconds,
                }
                self._emit("comfyline.ledger.at_risk", "comfyline.ledger", "ledger", risk)
            case RunEnded():
                self._run_once(
                    event.state,
                    reason=event.message,
                    cost_usd=event.cost_usd,
                    seconds=event.seconds,
                )
            case _:
                pass

    def _ended(self, outcome: Outcome) -> None:
        self._job(
            outcome.state.value,
            outcome.key,
            outcome.job,
            request_id=outcome.request_id,
            cost_usd=outcome.cost_usd,
            seconds=outcome.seconds,
            stage=outcome.stage,
            error=outcome.error.kind if outcome.error else None,
            reason=str(outcome.error or ""),
        )

    def _job(self, state: str, key: str, job: Job, **more: Any) -> None:
        told = {
            "job": key,
            "pipeline": job.pipeline,
            "item": job.item,
            "step": job.step,
            "model": job.model_id,
            "state": state,
            "labels": dict(job.labels),
            "cost_usd": None,
            "seconds": None,
            **more,
        }
        self._emit(f"comfyline.job.{state}", _resource(key), job.label, told)

    def _run_once(self, state: str, **more: Any) -> None:
        if state in self._told or self._is_shard:
            return
        self._told.add(state)
        told = {"pipeline": self._pipeline, "state": state, **more}
        name = self._pipeline or self._run_id  # one that ended before anybody read its pipeline
        self._emit(f"comfyline.run.{state}", f"comfyline.run.{self._run_id}", name, told)

    def _emit(self, event: str, resource: str, name: str, told: dict[str, Any]) -> None:
        payload = for_people({**told, "run_id": self._run_id})
        about = {"prefect.resource.id": resource, "prefect.resource.name": for_people(name)}
        # Prefect adds the flow run, its flow and its deployment by itself.
        emit_event(event, resource=about, payload=payload)
        fields = {"event": event, **payload}
        log.info("%s: %s", event, about["prefect.resource.name"], extra={FIELDS: fields})


def _resource(key: str) -> str:
    return f"comfyline.job.{key[:_KEY] or 'unchecked'}"


async def untold_doubts(submitted: Mapping[str, datetime]) -> set[str]:
    """Return the jobs, by key, of whose doubt no event was emitted since they were submitted.

    Prefect keeps events for 7 days: after that somebody is reminded. None while it cannot be asked.
    """
    told: dict[str, datetime] = {}
    try:
        async with get_client() as prefect:
            for keys in in_batches(sorted(submitted), _PAGE):
                left, is_full = {_resource(key) for key in keys}, True
                # The newest come first: a job with many must not hide those of another.
                while left and is_full:
                    asked = EventFilter(
                        occurred=EventOccurredFilter(since=min(submitted[key] for key in keys)),
                        event=EventNameFilter(name=["comfyline.job.in_doubt"]),
                        resource=EventResourceFilter(id=sorted(left)),
                    )
                    events = (await prefect.read_events(asked, limit=_PAGE)).events
                    for event in events:
                        told.setdefault(event.resource.id, event.occurred)
                    left, is_full = left - told.keys(), len(events) == _PAGE
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError):
        return set()
    return {
        key
        for key, at in submitted.items()
        if _resource(key) not in told or told[_resource(key)] < at
    }


def run_ended(state: State[Any]) -> RunEnded:
    """Return the event that tells of a flow run's end, by the state that it ends in."""
    names = {StateType.COMPLETED: "completed", StateType.CANCELLED: "cancelled"}
    unfinished = "unfinished" if state.name == "Unfinished" else "failed"
    summary = state.data
    if not isinstance(summary, RunSummary):
        return RunEnded(names.get(state.type, unfinished), state.message or "")
    return RunEnded(
        names.get(state.type, unfinished), state.message or "", summary.cost_usd, summary.seconds
    )
