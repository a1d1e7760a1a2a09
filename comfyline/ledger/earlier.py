"""What was last asked for in a job's place: by the same pipeline, item, step and settings."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, select

from comfyline.config.account import Account
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.reading import belongs_to
from comfyline.ledger.records import UNREADABLE, pack, unpack
from comfyline.ledger.tables import attempts

_ITEMS_AT_A_TIME = 200

Spot = tuple[str, str, str, str, int | None]
"""Pipeline, item, step, settings as JSON, part."""


def earlier_jobs(
    connection: Connection, asked: Sequence[CheckedJob], account: Account | None
) -> list[tuple[CheckedJob, CheckedJob] | None]:
    """For each job what was last submitted in its place, and the job itself in the same form.

    That form is what the ledger keeps: addresses without their queries. Nothing for a place in
    which there was none.
    """
    packed = [pack(one) for one in asked]
    spots = [_spot(one) for one in packed]
    latest: dict[Spot, CheckedJob] = {}
    for pipeline in dict.fromkeys(spot[0] for spot in spots):
        mine = {spot for spot in spots if spot[0] == pipeline}
        items = sorted({item for _, item, *_ in mine})
        for start in range(0, len(items), _ITEMS_AT_A_TIME):
            some = items[start : start + _ITEMS_AT_A_TIME]
            latest |= _latest(connection, pipeline, some, mine, account)
    return [
        (latest[spot], unpack(json.loads(json.dumps(one)))) if spot in latest else None
        for spot, one in zip(spots, packed, strict=True)
    ]


def _latest(
    connection: Connection,
    pipeline: str,
    items: Sequence[str],
    spots: set[Spot],
    account: Account | None,
) -> dict[Spot, CheckedJob]:
    column = attempts.c
    query = (
        select(column.request)
        .where(
            column.pipeline == pipeline,
            column.item.in_(items),
            column.step.in_(sorted({step for _, _, step, *_ in spots})),
            # What never left was never asked for.
            column.state != JobState.PLANNED,
            belongs_to(account),
        )
        .order_by(column.id)
    )
    found: dict[Spot, CheckedJob] = {}
    for row in connection.execute(query):
        # What a broken row asked for cannot be told apart from what is asked for now.
        with suppress(*UNREADABLE):
            if (spot := _spot(row.request)) in spots:
                found[spot] = unpack(row.request)
    return found


def _spot(packed: Mapping[str, Any]) -> Spot:
    job = packed["job"]
    settings = json.dumps(job["settings"], sort_keys=True)
    return job["pipeline"], job["item"], job["step"], settings, job.get("part")
