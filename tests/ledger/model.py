"""Any order of claims, POSTs, answers, deaths, clocks and human words, and what must always hold.

Several workers share one ledger. Each step of each of them is a rule of its own, so that anything
can happen in between: another worker's claim, a death, a clock that jumps, a person's answer.
"""

import asyncio
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from comfyline.errors import ComfylineError, Rejected
from comfyline.job import ALLOWED, ContentChecks, JobState
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.claims import AtCapacity, BudgetExceeded, Claimed, Limits, NotOurs
from comfyline.ledger.decision import Decision
from comfyline.ledger.locks import LOCK_SECONDS
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import ROOMY, Clock, asked, output
from tests.ledger.worker import Answer, RunComfy, Talk, Worker

PROMPTS = ["a", "b"]
WHO = st.integers(0, 2)
RUNS = ["run-1", "run-2", "run-3"]
ENDS = {JobState.PERSISTED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
LIVE = set(JobState) - ENDS
IN_FLIGHT, LIMIT_USD = 3, 2.5
AGAIN = 1
LOST = ComfylineError("A person found that it was never accepted")


def was_lost(row: Attempt) -> bool:
    """Whether its answer came after a person had taken it for lost."""
    return JobState.FAILED in row.reached and row.request_id is not None


class LedgerModel(RuleBasedStateMachine):
    """Three workers, two jobs, RunComfy, and people; after every step the ledger is sound."""

    worker_class: ClassVar[type[Worker]] = Worker
    new_url: ClassVar[Callable[[], str]]

    def __init__(self) -> None:
        super().__init__()
        self.world, self.loop, self.runcomfy = Clock(), asyncio.new_event_loop(), RunComfy()
        self.url = self.new_url()
        self.names = (f"worker-{number}" for number in itertools.count(1))
        self.known_dead: set[str | None] = set()
        self.is_dead = ExitStack()
        asks = "comfyline.files.is_dead"
        self.is_dead.enter_context(patch(asks, self.known_dead.__contains__))
        self.talk = Talk()
        # Of each run, when its latest try began.
        self.began: dict[str, datetime] = {}
        self.workers = [self.a_worker() for _ in range(3)]
        for run in RUNS:
            self.retry(0, run)
        self.holder: dict[str, tuple[str, Any]] = {}
        self.looked: list[Attempt] = []
        self.last: dict[int, JobState] = {}
        # Of each job, since a refresh was the only reason to ask for it again.
        self.rejected: dict[str, int] = defaultdict(int)

    def a_worker(self) -> Worker:
        mine = self.url, next(self.names), self.world, self.do, self.runcomfy, self.talk
        worker = self.worker_class(*mine)
        worker.began = self.began
        return worker

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def rows(self) -> Sequence[Attempt]:
        rows: Sequence[Attempt] = self.do(self.workers[0].ledger.list())
        return rows

    # What a worker does.

    @rule(who=WHO, run=st.sampled_from(RUNS))
    def retry(self, who: int, run: str) -> None:
        self.began[run] = self.do(self.workers[who].ledger.open_run(run, "scenes"))

    @rule(
        who=WHO,
        prompt=st.sampled_from(PROMPTS),
        run=st.sampled_from(RUNS),
        refresh=st.booleans(),
        limited=st.booleans(),
    )
    def claim(self, who: int, prompt: str, run: str, *, refresh: bool, limited: bool) -> None:
        checked = asked(prompt, price=1.0, checks=ContentChecks(not_blank=True, again=AGAIN))
        before = [row for row in self.rows() if row.checked.key == checked.key]
        limits = Limits(IN_FLIGHT, 600, LIMIT_USD if limited else None)
        claim = self.workers[who].claim(checked, run, refresh=refresh, limits=limits)
        match claim:
            case Claimed():
                self.nothing_stood_against_it(before, run, refresh=refresh)
            case NotOurs(decision, attempt):
                assert decision is not Decision.SUBMIT
                assert (decision is Decision.WAIT) == (attempt.state is JobState.SUBMITTING)
                assert attempt.state is not JobState.IN_DOUBT or decision is Decision.BLOCKED
            case AtCapacity():
                assert sum(row.state in LIVE for row in self.rows()) >= IN_FLIGHT
            case BudgetExceeded(_, limit_usd, reserved):
                assert limited
                assert reserved + 1.0 > limit_usd

    def nothing_stood_against_it(
        self, before: Sequence[Attempt], run: str, *, refresh: bool
    ) -> None:
        for row in before:
            assert row.state in ENDS | {JobState.PLANNED}, "claimed while it is under way"
        counted = [row for row in before if row.state is not JobState.PLANNED]
        if not counted:
            return
        latest, key = counted[0], counted[0].checked.key
        is_rejected = latest.error_kind == Rejected.kind
        has_some_left = is_rejected and self.rejected[key] <= AGAIN
        came_to_nothing = (
            latest.state in {JobState.FAILED, JobState.CANCELLED}
            and not latest.cost_usd
            and latest.updated_at < self.began[run]
        )
        asks_twice = run in {row.run_id for row in counted} and not came_to_nothing
        assert has_some_left or not asks_twice, "a run asks twice"
        if refresh and not has_some_left:
            self.rejected[key] = 0
        elif is_rejected:
            assert has_some_left, "asked for again more often than allowed"
        elif not refresh:
            assert latest.state in {JobState.FAILED, JobState.CANCELLED}
            assert not latest.cost_usd

    @precondition(lambda self: any(s.answer is None for w in self.workers for s in w.hands))
    @rule(answer=st.sampled_from(Answer), which=st.integers(0, 9))
    def post(self, answer: Answer, which: int) -> None:
        ready = [(w, s) for w in self.workers for s in w.hands if s.answer is None]
        worker, sending = ready[which % len(ready)]
        worker.post(sending, answer)

    @precondition(lambda self: any(s.answer for w in self.workers for s in w.hands))
    @rule(which=st.integers(0, 9))
    def write_down(self, which: int) -> None:
        ready = [(w, s) for w in self.workers for s in w.hands if s.answer]
        worker, sending = ready[which % len(ready)]
        worker.write_down(sending)

    @precondition(lambda self: any(w.hands for w in self.workers))
    @rule(who=WHO, noticed=st.booleans())
    def die(self, who: int, *, noticed: bool) -> None:
        """With all that it has in its hands; the others may know of it, or may not."""
        dead = self.workers[who]
        if noticed:
            self.known_dead.add(dead.name)
        dead.ledger.close()
        self.workers[who] = self.a_worker()

    @rule(
        who=WHO,
        seconds=st.sampled_from([30, 61, 700]),
        whose=st.sampled_from(["everybody's", "one's", "one's, back"]),
        sweep=st.booleans(),
    )
    def clocks_go_on(self, who: int, seconds: int, whose: str, *, sweep: bool) -> None:
        if whose == "everybody's":
            self.world.forward(seconds)
        else:
            self.workers[who].ahead += -seconds if whose == "one's, back" else seconds
        if sweep:
            self.do(self.workers[who].ledger.end_dead_leases())

    @rule(
        who=WHO,
        prompt=st.sampled_from(PROMPTS),
        what=st.sampled_from(["take", "take", "renew", "release"]),
    )
    def hold(self, who: int, prompt: str, what: str) -> None:
        worker, key = self.workers[who], asked(prompt).key
        if what == "take":
            name, until = self.holder.get(key, (worker.name, worker.now()))
            free = name == worker.name or until <= worker.now() or name in self.known_dead
            assert self.do(worker.ledger.unlocked([key])) == ({key} if free else set())
            assert self.do(worker.ledger.acquire(key)) == free
            if free:
                self.holder[key] = worker.name, self.held_until(worker)
            return
        self.do(worker.ledger.renew_locks() if what == "renew" else worker.ledger.release_all())
        for mine in [key for key, (name, _) in self.holder.items() if name == worker.name]:
            if what == "renew":
                self.holder[mine] = worker.name, self.held_until(worker)
            else:
                del self.holder[mine]

    def held_until(self, worker: Worker) -> Any:
        later = Clock()
        later.time = worker.now()
        later.forward(LOCK_SECONDS)
        return later.time

    # What RunComfy does, and what the workers see of it.

    @precondition(lambda self: self.runcomfy.requests)
    @rule(
        which=st.integers(0, 9),
        to=st.sampled_from(["in_queue", "in_progress", "completed", "failed", "cancelled"]),
        gone=st.integers(0, 5),
    )
    def runcomfy_works(self, which: int, to: str, gone: int) -> None:
        requests = list(self.runcomfy.requests.values())
        request = requests[which % len(requests)]
        if request.state in {JobState.IN_QUEUE, JobState.IN_PROGRESS}:
            request.state = JobState(to)
        elif request.state is JobState.COMPLETED:
            request.gone = gone == 0

    @precondition(lambda self: self.runcomfy.requests)
    @rule(
        who=WHO,
        which=st.integers(0, 9),
        what=st.sampled_from(["look", "store", "reject", "reject"]),
    )
    def reconcile(self, who: int, which: int, what: str) -> None:
        worker = self.workers[who]
        left: Sequence[Attempt] = self.do(worker.ledger.unfinished())
        if not left:
            return
        row = left[which % len(left)]
        assert row.request_id is not None
        if row.state is JobState.COMPLETED and what == "store":
            uri = f"file:///{row.checked.key}"
            self.do(worker.ledger.persisted(row.id, [output(uri)]))
        elif row.state is JobState.COMPLETED and what == "reject":
            self.do(worker.ledger.ended(row.id, JobState.FAILED, Rejected("The output is blank")))
            of_job = [one for one in self.rows() if one.checked.key == row.checked.key]
            left_later = [one for one in of_job if one.state is not JobState.PLANNED]
            self.rejected[row.checked.key] += left_later[0].id == row.id
        else:
            worker.look(row.id, row.request_id)

    # What people do, who look first, and answer later.

    @precondition(lambda self: JobState.IN_DOUBT in self.last.values())
    @rule()
    def a_person_looks(self) -> None:
        self.looked = [row for row in self.rows() if row.state is JobState.IN_DOUBT]

    @precondition(lambda self: self.looked)
    @rule(who=WHO, wrongly_lost=st.booleans())
    def a_person_answers(self, who: int, *, wrongly_lost: bool) -> None:
        ledger, row = self.workers[who].ledger, self.looked.pop()
        found = self.runcomfy.accepted_as((row.checked.key, row.number))
        now = next(one for one in self.rows() if one.id == row.id)
        try:
            if found and not wrongly_lost:
                self.do(ledger.accepted(row.id, found.id))
            else:
                self.do(ledger.lost(row.id, LOST))
                assert now.state is JobState.IN_DOUBT
        except StateConflict as late:
            assert now.state is not JobState.IN_DOUBT
            self.talk.told |= {late.request_id} if late.request_id else set()

    # What must hold after every step.

    @invariant()
    def nothing_is_paid_for_twice(self) -> None:
        twice = [of for of, count in self.runcomfy.charges.items() if count > 1]
        assert not twice, f"charged twice: {twice}"
        posts = [of for of, count in self.runcomfy.open_posts.items() if count > 1]
        assert not posts, f"posted again although the first may have been accepted: {posts}"

    @invariant()
    def the_ledger_is_sound(self) -> None:
        rows = self.rows()
        for row in rows:
            assert row.state in row.reached
            assert (row.request_id is None) == (JobState.SUBMITTED not in row.reached)
            self.it_came_here_step_by_step(row)
        for key in {row.checked.key for row in rows}:
            mine = [row for row in reversed(rows) if row.checked.key == key]
            assert [row.number for row in mine] == list(range(1, len(mine) + 1))
            left = [row for row in mine if row.state is not JobState.PLANNED]
            assert not [row for row in left[:-1] if row.state in LIVE and not was_lost(row)]
            assert not [row for row in mine[:-1] if row.state is JobState.PLANNED]
        self.nothing_paid_is_dropped(rows)

    def it_came_here_step_by_step(self, row: Attempt) -> None:
        """An end is never left but by the answer of what was taken for lost.

        A doubt is left by an answer or by a person only.
        """
        before = self.last.get(row.id, row.state)
        self.last[row.id] = row.state
        if before is JobState.FAILED and row.state is JobState.SUBMITTED:
            assert was_lost(row)
        elif before in ENDS - {JobState.PERSISTED}:
            assert row.state is before
        if before is JobState.IN_DOUBT:
            assert row.state in ALLOWED[before] | {before}

    def nothing_paid_is_dropped(self, rows: Sequence[Attempt]) -> None:
        """Every request id that a worker heard of is in the ledger, or in an error that has it."""
        known = {row.request_id: row for row in rows if row.request_id}
        for request_id, row in known.items():
            request = self.runcomfy.requests[request_id]
            assert request.of == (row.checked.key, row.number)
            if row.error_kind == Rejected.kind:
                assert request.state is JobState.COMPLETED, "rejected, and never there"
            elif row.state in {JobState.FAILED, JobState.CANCELLED}:
                assert request.state is row.state, "paid for, and given up"
            if row.state is JobState.EXPIRED:
                assert request.gone
        assert self.talk.heard <= known.keys() | self.talk.told

    # The faults stop: everything reaches an end.

    def everything_ends(self) -> None:
        for worker in self.workers:
            worker.ahead = 0
            for sending in list(worker.hands):
                if sending.answer is None:
                    worker.post(sending, Answer.ACCEPTED)
                worker.write_down(sending)
        # Further than any clock was ahead when it gave a lease.
        self.world.forward(1_000_000)
        for turn in range(4):
            self.a_fair_turn(self.workers[turn % 3])
        # Each has gone several steps since.
        self.last.clear()
        self.nothing_is_paid_for_twice()
        self.the_ledger_is_sound()
        rows = self.rows()
        assert not [row for row in rows if row.state in LIVE - {JobState.PLANNED}]
        jobs: dict[str, Attempt] = self.do(
            self.workers[0].ledger.find([asked(prompt).key for prompt in PROMPTS])
        )
        assert len(jobs) == len(PROMPTS)
        assert not [row for row in jobs.values() if row.state not in ENDS]

    def a_fair_turn(self, worker: Worker) -> None:
        """Everybody does what is theirs to do, once."""
        self.do(worker.ledger.end_dead_leases())
        self.a_person_looks()
        while self.looked:
            self.a_person_answers(0, wrongly_lost=False)
        for request in self.runcomfy.requests.values():
            if request.state in {JobState.IN_QUEUE, JobState.IN_PROGRESS}:
                request.state = JobState.COMPLETED
        for row in self.do(worker.ledger.unfinished()):
            if row.state is JobState.COMPLETED and not self.runcomfy.requests[row.request_id].gone:
                self.do(worker.ledger.persisted(row.id, [output(f"file:///{row.checked.key}")]))
            else:
                worker.look(row.id, row.request_id)
        for prompt in PROMPTS:
            checked = asked(prompt, price=1.0, checks=ContentChecks(again=AGAIN))
            assert self.do(worker.ledger.acquire(checked.key))
            if isinstance(
                worker.claim(checked, "the last run", refresh=False, limits=ROOMY), Claimed
            ):
                [sending] = worker.hands
                worker.post(sending, Answer.ACCEPTED)
                worker.write_down(sending)
            self.do(worker.ledger.release(checked.key))
        self.world.forward(61)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.everything_ends()
        finally:
            for worker in self.workers:
                worker.ledger.close()
            self.is_dead.close()
            self.loop.close()
