"""The sums of the report: the database says what one counts by hand, whatever lies there."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, text

from comfyline.config.account import Account
from comfyline.job import JobState, Placement
from comfyline.ledger.attempts import PAID_IN_VAIN
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import UNFINISHED
from comfyline.ledger.report import ALL, read_failures, read_sums
from comfyline.ledger.savings import Saving, savings_of
from comfyline.ledger.tables import attempts, jobs, runs, savings, transitions
from comfyline.run import Outcome, Provenance
from tests.ledger.conftest import Clock, Desk, asked

MINE = Account("https://a.example", "default", "production")
OTHER = Account("https://a.example", "second", "production")
SINCE, UNTIL = datetime(2026, 3, 1, 6, tzinfo=UTC), datetime(2026, 3, 3, 6, tzinfo=UTC)
GROUPINGS = ("pipeline", "model", "day", "label.client")

Row = Mapping[str, Any]

labels = st.none() | st.fixed_dictionaries(
    {}, optional={"client": st.sampled_from(["acme", 'b"olt', "ćora"]), "sku": st.just("7")}
)
moments = st.timedeltas(timedelta(hours=-12), timedelta(hours=60)).map(lambda after: SINCE + after)
dollars = st.none() | st.floats(0, 100)
seconds = st.integers(0, 10_000).map(lambda number: number * 0.137)
asked_for = st.fixed_dictionaries(
    {
        "at": moments,
        "dated": st.booleans(),
        "pipeline": st.sampled_from(["a", "b"]),
        "model": st.sampled_from(["m/1", "m/2"]),
        "labels": labels,
        "state": st.sampled_from([*JobState]),
        "accepted": st.booleans(),
        "cost": dollars,
        "kind": st.sampled_from([None, "generation-failed", *sorted(PAID_IN_VAIN)]),
        "account": st.sampled_from([MINE, OTHER]),
        "doubted": st.booleans(),
        "queue": st.none() | seconds,
        "generation": st.none() | seconds,
    }
)
not_paid = st.fixed_dictionaries(
    {
        "at": moments,
        "pipeline": st.sampled_from(["a", "b"]),
        "model": st.sampled_from(["m/1", "m/2"]),
        "labels": labels,
        "account": st.sampled_from([MINE, OTHER]),
        "reused": st.integers(0, 9),
        "taken_over": st.integers(0, 9),
        "cost_usd": st.floats(0, 100),
        "cost_unknown": st.integers(0, 9),
    }
)


def fill(connection: Connection, made: Sequence[Row], saved: Sequence[Row]) -> None:
    for table in (transitions, savings, runs, attempts, jobs):
        connection.execute(delete(table))
    for number, row in enumerate(made, 1):
        key = f"{number:064}"
        job = {"key": key, "model_id": row["model"], "created_at": row["at"]}
        connection.execute(insert(jobs), job)
        attempt = {
            "id": number,
            "key": key,
            "number": 1,
            "origin": row["account"].origin,
            "account": row["account"].name,
            "state": row["state"],
            "pipeline": row["pipeline"],
            "item": "i",
            "step": "s",
            "request": {},
            "labels": row["labels"],
            "run_id": "r",
            "request_id": f"r-{number}" if row["accepted"] else None,
            "cost_usd": row["cost"],
            "error_kind": row["kind"],
            # A version before claims were dated wrote the first time only.
            "created_at": row["at"] - timedelta(days=9) if row["dated"] else row["at"],
            "claimed_at": row["at"] if row["dated"] else None,
            "updated_at": row["at"],
            "queue_seconds": row["queue"],
            "generation_seconds": row["generation"],
        }
        connection.execute(insert(attempts), attempt)
        if row["doubted"]:
            doubt = {"attempt_id": number, "state": JobState.IN_DOUBT, "at": row["at"]}
            connection.execute(insert(transitions), doubt)
    for number, row in enumerate(saved, 1):
        run = {"id": f"run-{number}", "pipeline": row["pipeline"], "started_at": row["at"]}
        whose = {"origin": row["account"].origin, "account": row["account"].name}
        connection.execute(insert(runs), run | whose)
        columns = ("labels", "reused", "taken_over", "cost_usd", "cost_unknown")
        values = {name: row[name] for name in columns}
        values |= {"run_id": f"run-{number}", "model_id": row["model"]}
        connection.execute(insert(savings), values)


def group_of(row: Row, by: str) -> str | None:
    match by:
        case "day":
            return f"{row['at']:%Y-%m-%d}"
        case "label.client":
            return (row["labels"] or {}).get("client")
        case _:
            return str(row[by])


def counted(made: Sequence[Row], saved: Sequence[Row], by: str) -> dict[str | None, dict[str, Any]]:
    """The same sums as one would count them by hand."""

    def is_meant(row: Row) -> bool:
        return row["account"] is MINE and SINCE <= row["at"] < UNTIL

    made = [row for row in made if is_meant(row) and row["state"] is not JobState.PLANNED]
    saved = [row for row in saved if is_meant(row)]
    groups: dict[str | None, dict[str, Any]] = {}
    for group in [ALL, *(group_of(row, by) for row in (*made, *saved))]:
        mine = [row for row in made if group in (ALL, group_of(row, by))]
        free = [row for row in saved if group in (ALL, group_of(row, by))]
        groups[group] = of_attempts(mine) | {
            "reused": sum(row["reused"] for row in free),
            "taken_over": sum(row["taken_over"] for row in free),
            "saved_usd": sum(row["cost_usd"] for row in free),
            "saved_unknown": sum(row["cost_unknown"] for row in free),
        }
    return groups


def of_attempts(rows: Sequence[Row]) -> dict[str, Any]:
    def number(*states: JobState) -> int:
        return sum(row["state"] in states for row in rows)

    made = {JobState.COMPLETED, JobState.PERSISTED, JobState.EXPIRED}
    not_told = [
        row
        for row in rows
        if row["accepted"] and row["cost"] is None
        if row["state"] in made or (row["state"] is JobState.FAILED and row["kind"] in PAID_IN_VAIN)
    ]
    sent = {JobState.SUBMITTING, JobState.IN_DOUBT}
    found: dict[str, Any] = {
        "requests": sum(row["accepted"] or row["state"] in sent for row in rows),
        "stored": number(JobState.PERSISTED),
        "failed": number(JobState.FAILED, JobState.EXPIRED),
        "cancelled": number(JobState.CANCELLED),
        "in_doubt": number(JobState.IN_DOUBT),
        "unfinished": number(*UNFINISHED),
        "cost_usd": sum(row["cost"] or 0 for row in rows),
        "cost_unknown": len(not_told),
        "not_repeated": sum(row["doubted"] and row["dated"] for row in rows),
    }
    for name in ("queue", "generation"):
        spans = sorted(row[name] for row in rows if row[name] is not None)
        for percent in (50, 95):
            rank = math.ceil(len(spans) * percent / 100)
            found[f"{name}_p{percent}"] = spans[rank - 1] if spans else None
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made=st.lists(asked_for, max_size=12), saved=st.lists(not_paid, max_size=5))
def test_every_sum_is_what_one_counts_by_hand(
    ledger: Ledger, made: list[Row], saved: list[Row]
) -> None:
    ledger.account = MINE

    async def work() -> None:
        await ledger.database.run(lambda connection: fill(connection, made, saved))
        for by in GROUPINGS:
            found = await read_sums(ledger, SINCE, UNTIL, by)
            expected = counted(made, saved, by)
            assert found.keys() == expected.keys()
            for group, figures in expected.items():
                for name, value in figures.items():
                    told = found[group].get(name, 0 if value == 0 else None)
                    assert told == (value if value is None else pytest.approx(value, abs=1e-3))

    asyncio.run(work())


async def test_failures_are_counted_by_their_kind(ledger: Ledger, desk: Desk, clock: Clock) -> None:
    await desk.stored(asked("fine"))
    await desk.in_doubt(asked("doubted"))
    now = clock()

    assert await read_failures(ledger, now, now + timedelta(days=1)) == {"in-doubt": 1}
    assert await read_failures(ledger, now - timedelta(days=1), now) == {}


async def test_a_label_that_somebody_has_broken_hides_no_other(ledger: Ledger, desk: Desk) -> None:
    await desk.stored(asked("whole", labels={"client": "acme"}))
    await desk.stored(asked("broken", labels={"client": "acme"}))

    def break_it(connection: Connection) -> None:
        # PostgreSQL itself takes nothing that is no JSON.
        broken = "{no json" if connection.dialect.name == "sqlite" else "[1]"
        query = text("UPDATE attempts SET labels = :broken WHERE id = 2")
        connection.execute(query, {"broken": broken})

    await ledger.database.run(break_it)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found = await read_sums(ledger, start, start + timedelta(days=999), "label.client")

    assert {group: one["stored"] for group, one in found.items()} == {ALL: 2, "acme": 1, None: 1}


def outcome(key: str, *, cost: float | None = None, **of_outcome: Any) -> Outcome:
    job = replace(asked().job, labels={"client": "acme"}, placement=Placement("out", "x", {}))
    return Outcome(job, key, JobState.PERSISTED, cost_usd=cost, **of_outcome)


def test_a_run_counts_what_it_did_not_pay_again_and_nothing_that_it_paid() -> None:
    stored = datetime(2026, 3, 1, tzinfo=UTC)
    made = {key: Provenance("r", 1, cost, stored) for key, cost in (("a", 0.5), ("b", None))}
    outcomes = [
        outcome("a", reused=True, cost=0.5),
        outcome("b"),
        outcome("bought", cost=0.7),
        outcome("bought", reused=True),
        outcome("earlier try", reused=True),
        outcome("of unknown cost", cost_unknown=True),
        replace(outcome("c"), state=JobState.FAILED),
        outcome("yesterday", reused=True, is_old=True),
    ]
    paid = {"bought", "earlier try", "of unknown cost"}

    assert savings_of(outcomes, made, paid) == [
        Saving(asked().job.model_id, {"client": "acme"}, 2, 1, 0.5, 2)
    ]


async def test_a_run_that_is_tried_again_counts_once(ledger: Ledger, clock: Clock) -> None:
    await ledger.open_run("run-1", "scenes")
    for _ in range(2):
        await ledger.saved("run-1", [Saving("m", reused=3, cost_usd=0.3)])
    found = await read_sums(ledger, clock(), clock() + timedelta(1), "pipeline")

    assert {group: one["reused"] for group, one in found.items()} == {ALL: 3, "scenes": 3}
    await ledger.saved("run-1", [])
    assert (await read_sums(ledger, clock(), clock() + timedelta(1), "pipeline")).keys() == {ALL}
