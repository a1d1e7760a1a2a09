"""Any order of claims, answers, deaths and human words: what must hold after every step."""

import asyncio
import itertools
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from comfyline.errors import ComfylineError
from comfyline.job import ALLOWED, JobState
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.ledger import Claimed, Ledger, Limits, NoMoney, NoSlot, NotOurs
from comfyline.ledger.writing import StateConflict
from tests.ledger.conftest import Clock, asked, output

KEYS = st.sampled_from(["a", "b"])
RUNS = st.sampled_from(["run-1", "run-2", "run-3"])
LIVE = {
    JobState.PLANNED,
    JobState.SUBMITTING,
    JobState.SUBMITTED,
    JobState.IN_QUEUE,
    JobState.IN_PROGRESS,
    JobState.COMPLETED,
    JobState.IN_DOUBT,
}
IN_FLIGHT = 2
LIMIT_USD = 2.5


class LedgerModel(RuleBasedStateMachine):
    """Workers that claim two jobs, POST or die, and hear from RunComfy in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.loop = asyncio.new_event_loop()
        self.ledger = Ledger("sqlite://", "here:1", self.clock)
        self.holders: list[int] = []  # claims whose holder lives and has not spoken yet
        self.posted: dict[int, str] = {}
        self.ids = itertools.count(1)

    def teardown(self) -> None:
        self.ledger.close()
        self.loop.close()

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def rows(self) -> list[Any]:
        return list(self.do(self.ledger.list(None, None)))

    def row(self, attempt_id: int) -> Any:
        return next(row for row in self.rows() if row.id == attempt_id)

    @rule(key=KEYS, run=RUNS, refresh=st.booleans(), limited=st.booleans())
    def claim(self, key: str, run: str, *, refresh: bool, limited: bool) -> None:
        job = asked(key, price=1.0)
        before = self.do(self.ledger.find([job.key])).get(job.key)
        limits = Limits(IN_FLIGHT, 600, LIMIT_USD if limited else None)
        claim = self.do(self.ledger.claim(job, run_id=run, refresh=refresh, limits=limits))
        match claim:
            case Claimed(attempt_id, number):
                assert before is None or before.state not in LIVE - {JobState.PLANNED}
                assert before is None or refresh or before.state is not JobState.PERSISTED
                assert before is None or refresh or not before.cost_usd
                assert attempt_id not in self.posted
                assert number == self.row(attempt_id).number
                self.holders.append(attempt_id)
            case NotOurs(decision, attempt):
                assert decision is not Decision.SUBMIT
                assert (decision is Decision.WAIT) == (attempt.state is JobState.SUBMITTING)
                if attempt.state is JobState.IN_DOUBT:
                    assert decision is Decision.BLOCKED
            case NoSlot():
                assert sum(row.state in LIVE for row in self.rows()) >= IN_FLIGHT
            case NoMoney(reserved):
                assert limited
                assert reserved + 1.0 > LIMIT_USD

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 9))
    def post_is_accepted(self, which: int) -> None:
        attempt_id = self.holders.pop(which % len(self.holders))
        row = self.row(attempt_id)
        self.posted[attempt_id] = f"r-{next(self.ids)}"
        try:
            self.do(self.ledger.accepted(attempt_id, self.posted[attempt_id]))
        except StateConflict as late:
            # Only a person's word came first; the id is in the error, and the job may go on.
            assert row.state is JobState.FAILED
            refused = late.request_id
            assert refused == self.posted.pop(attempt_id)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 9))
    def post_never_leaves(self, which: int) -> None:
        attempt_id = self.holders.pop(which % len(self.holders))
        before = self.row(attempt_id).state
        try:
            self.do(self.ledger.not_sent(attempt_id))
        except StateConflict:
            assert before is JobState.FAILED

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 9))
    def process_dies(self, which: int) -> None:
        self.holders.pop(which % len(self.holders))

    @rule(seconds=st.sampled_from([1, 30, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.clock.forward(seconds)

    @rule()
    def somebody_sweeps(self) -> None:
        self.do(self.ledger.end_dead_leases())

    @precondition(lambda self: self.posted)
    @rule(
        which=st.integers(0, 99),
        to=st.sampled_from(sorted(set(JobState) - {JobState.PLANNED, JobState.SUBMITTING})),
        cost=st.sampled_from([None, 0.0, 0.7]),
    )
    def runcomfy_says(self, which: int, to: JobState, cost: float | None) -> None:
        attempt_id = list(self.posted)[which % len(self.posted)]
        before = self.row(attempt_id)
        try:
            match to:
                case JobState.SUBMITTED:
                    self.do(self.ledger.accepted(attempt_id, self.posted[attempt_id]))
                case JobState.IN_QUEUE | JobState.IN_PROGRESS:
                    self.do(self.ledger.observed(attempt_id, to))
                case JobState.COMPLETED:
                    self.do(self.ledger.completed(attempt_id, cost))
                case JobState.PERSISTED:
                    self.do(self.ledger.persisted(attempt_id, [output(f"file:///{attempt_id}")]))
                case _:
                    error = ComfylineError("It ended")
                    self.do(self.ledger.ended(attempt_id, to, error, cost_usd=cost))
        except StateConflict:
            assert to not in ALLOWED[before.state]
            assert self.row(attempt_id) == before
        after = self.row(attempt_id)
        assert after.state is before.state or after.state in ALLOWED[before.state]

    @rule(key=KEYS)
    def somebody_says_it_was_lost(self, key: str) -> None:
        for row in self.rows():
            if row.state is JobState.IN_DOUBT and row.checked.job.inputs["prompt"] == key:
                lost = ComfylineError("A person found that it was never accepted")
                self.do(self.ledger.ended(row.id, JobState.FAILED, lost))

    @invariant()
    def the_ledger_is_sound(self) -> None:
        # One reading for all of it: this runs after every step.
        rows = self.rows()
        self.one_attempt_of_a_key_is_live_and_it_is_the_latest(rows)
        self.no_request_id_is_forgotten(rows)
        self.nothing_in_doubt_is_submitted(rows)
        for row in rows:
            assert row.state in row.reached
            assert (row.request_id is None) == (JobState.SUBMITTED not in row.reached)

    def one_attempt_of_a_key_is_live_and_it_is_the_latest(self, rows: list[Any]) -> None:
        for key in {row.checked.key for row in rows}:
            mine = sorted((row for row in rows if row.checked.key == key), key=lambda r: r.number)
            assert [row.number for row in mine] == list(range(1, len(mine) + 1))
            assert not [row for row in mine[:-1] if row.state in LIVE]
            runs = [row.run_id for row in mine if row.state is not JobState.PLANNED]
            assert len(set(runs)) == len(runs), "a run submitted a key twice"

    def no_request_id_is_forgotten(self, rows: list[Any]) -> None:
        known = {row.id: row.request_id for row in rows}
        assert {attempt_id: known[attempt_id] for attempt_id in self.posted} == self.posted

    def nothing_in_doubt_is_submitted(self, rows: list[Any]) -> None:
        for row in rows:
            for refresh in (False, True):
                said = decide(row, refresh=refresh, run_id="run-4", now=self.clock())
                assert row.state is not JobState.IN_DOUBT or said is Decision.BLOCKED


class TestLedgerModel(LedgerModel.TestCase):
    settings = settings(
        max_examples=20,
        # A failing example is told as it is: to shrink one takes minutes.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
