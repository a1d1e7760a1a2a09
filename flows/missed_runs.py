"""Emit an event for each scheduled pipeline that has not completed within its window.

Prefect's own triggers for what did not happen are known to misfire. The scheduled times are
computed from the schedules, not taken from the runs: a scheduler that is down makes none. The
event's id is made of deployment and time, so that the next check finds in the history that it was
told.
"""

from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter, EventOccurredFilter
from prefect.exceptions import PrefectException
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import TypeAdapter

from comfyline.operations.alerts import missed_slot
from comfyline.redact import without_secrets

MISSED = "comfyline.pipeline.missed"

_SCHEDULE: TypeAdapter[CronSchedule | IntervalSchedule | RRuleSchedule] = TypeAdapter(
    CronSchedule | IntervalSchedule | RRuleSchedule
)
_SPANS = tuple(map(timedelta, (1 / 1440, 1 / 24, 1, 8, 40, 370)))
"""How far back the last scheduled time is looked for: Prefect computes a thousand at most."""


async def report_missed_runs(window: timedelta, now: datetime) -> None:
    """Emit `comfyline.pipeline.missed` once for each missed time of a tagged deployment.

    A server that cannot be asked is told in the log alone: what is paid for comes first.
    """
    logger = get_run_logger()
    try:
        async with get_client() as prefect:
            for deployment in await _scheduled(prefect):
                if missed := await _missed(deployment, window, now, prefect):
                    logger.warning("%s was due at %s and has not completed", *missed)
    except (httpx.HTTPError, PrefectException, RuntimeError, ValueError) as error:
        why = without_secrets(str(error)).partition("\n")[0]
        logger.warning("Cannot tell which scheduled runs were missed: %s", why)


async def _scheduled(prefect: PrefectClient) -> list[DeploymentResponse]:
    return await prefect.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["pipeline"])),
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=["comfyline"])),
        limit=200,
    )


async def _missed(
    deployment: DeploymentResponse, window: timedelta, now: datetime, prefect: PrefectClient
) -> tuple[str, str] | None:
    """Tell what one deployment has missed, if nobody was told yet; return its name and the time."""
    if deployment.paused:
        return None
    slots = [
        slot
        for schedule in deployment.schedules
        if schedule.active and (slot := await _last_slot(schedule, now - window))
    ]
    completed = await _last_run(deployment.id, prefect, completed=True)
    due = missed_slot(slots, completed.end_time if completed else None, window, now)
    if due is None:
        return None
    event_id = uuid5(NAMESPACE_URL, f"{MISSED}/{deployment.id}/{due.timestamp():.0f}")
    told = EventFilter(
        occurred=EventOccurredFilter(since=due, until=now), id=EventIDFilter(id=[event_id])
    )
    if (await prefect.read_events(told, limit=1)).events:
        return None
    last = await _last_run(deployment.id, prefect, before=now)
    name = f"pipeline/{deployment.name}"
    related = [
        {
            "prefect.resource.id": f"prefect.deployment.{deployment.id}",
            "prefect.resource.role": "deployment",
            "prefect.resource.name": deployment.name,
        }
    ]
    if last:
        # Before the run of the check itself, to whose page a message would lead.
        related.append(
            {
                "prefect.resource.id": f"prefect.flow-run.{last.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": last.name,
            }
        )
    emit_event(
        MISSED,
        resource={
            "prefect.resource.id": f"comfyline.deployment.{deployment.id}",
            "prefect.resource.name": name,
        },
        related=related,
        payload={
            "pipeline": str(deployment.parameters.get("path", deployment.name)),
            "deployment": name,
            "due": f"{due:%Y-%m-%d %H:%M %Z}",
            "run_id": str(last.id) if last else None,
            "state": f"{last.name}, {last.state_name}" if last else "there is none",
        },
        id=event_id,
    )
    return name, f"{due:%Y-%m-%d %H:%M %Z}"


async def _last_slot(schedule: DeploymentSchedule, until: datetime) -> datetime | None:
    """Return the last scheduled time that is not after `until`, nor older than the schedule."""
    computed = _SCHEDULE.validate_python(schedule.schedule.model_dump())
    since = schedule.updated or schedule.created or until
    for span in _SPANS:
        start = max(until - span, since)
        if start < until and (slots := await computed.get_dates(start=start, end=until)):
            return max(slots)
    return None


async def _last_run(
    deployment_id: UUID,
    prefect: PrefectClient,
    *,
    completed: bool = False,
    before: datetime | None = None,
) -> FlowRun | None:
    runs = await prefect.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
            if completed
            else None,
            expected_start_time=FlowRunFilterExpectedStartTime(before_=before) if before else None,
        ),
        sort=FlowRunSort.END_TIME_DESC if completed else FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return runs[0] if runs else None
