"""What a ledger shows to somebody who watches it: numbers, in a handful of small queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from comfyline.config.account import Account
from comfyline.job import JobState
from comfyline.ledger.queries import UNFINISHED, belongs_to
from comfyline.ledger.tables import attempts, runs

_LATELY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account's jobs stand.

    `unfinished` has every state in which money is at stake. `oldest_unstored` is when the oldest
    result was submitted that is paid for and not stored. `today` counts by pipeline and state what
    was submitted since midnight UTC, and its known cost in US dollars. `completed` is when each
    pipeline last had a run that ended with everything there.
    """

    unfinished: Mapping[JobState, int]
    in_doubt: int
    oldest_unstored: datetime | None
    today: Mapping[tuple[str, JobState], tuple[int, float]]
    completed: Mapping[str, datetime]
    now: datetime


def standing(connection: Connection, account: Account | None, now: datetime) -> Standing:
    """Read where the jobs of an account stand, of all for None."""
    column, mine = attempts.c, belongs_to(account)
    watched = (*UNFINISHED, JobState.IN_DOUBT)
    by_state = (
        select(column.state, func.count(), func.min(column.submitted_at))
        .where(column.state.in_(watched), mine)
        .group_by(column.state)
    )
    found, oldest = dict[JobState, int](), list[datetime]()
    for state, number, submitted_at in connection.execute(by_state):
        found[JobState(state)] = number
        if submitted_at and state != JobState.IN_DOUBT:
            oldest.append(submitted_at)
    # By the pipelines that ran lately, for which there is an index: not through all attempts ever.
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    lately = select(runs.c.pipeline).where(runs.c.started_at >= midnight - _LATELY)
    today = (
        select(column.pipeline, column.state, func.count(), func.sum(column.cost_usd))
        .where(column.pipeline.in_(lately), column.claimed_at >= midnight, mine)
        .group_by(column.pipeline, column.state)
    )
    completed = (
        select(runs.c.pipeline, func.max(runs.c.completed_at))
        .where(runs.c.completed_at.is_not(None), belongs_to(account, runs))
        .group_by(runs.c.pipeline)
    )
    return Standing(
        unfinished={state: found.get(state, 0) for state in UNFINISHED},
        in_doubt=found.get(JobState.IN_DOUBT, 0),
        oldest_unstored=min(oldest, default=None),
        today={
            (pipeline, JobState(state)): (count, cost or 0.0)
            for pipeline, state, count, cost in connection.execute(today)
        },
        completed={row[0]: row[1] for row in connection.execute(completed)},
        now=now,
    )
