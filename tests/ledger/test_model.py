"""The model check of the ledger, and that it bites: what would pay twice is found by it."""

import itertools
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Connection, select

from comfyline import files
from comfyline.job import CheckedJob, JobState
from comfyline.ledger import writes
from comfyline.ledger.claims import AtCapacity, Claim, Claimed, Limits
from comfyline.ledger.decision import Decision, decide
from comfyline.ledger.tables import attempts
from tests.conftest import new_database
from tests.ledger.model import LedgerModel
from tests.ledger.worker import Answer, Sending, Worker

NewUrl = Callable[[], str]


@pytest.fixture
def new_url(empty_file: Path, tmp_path: Path) -> NewUrl:
    """Makes an empty ledger's URL each time it is asked."""
    numbers = itertools.count()

    def copied() -> str:
        file = tmp_path / str(next(numbers))
        shutil.copyfile(empty_file, file)
        return f"sqlite:///{file}"

    return copied


def check(model: type[LedgerModel], new_url: NewUrl, examples: int) -> None:
    """Runs a model in many orders, always the same ones."""
    checked = type(model.__name__, (model,), {"new_url": staticmethod(new_url)})
    run_state_machine_as_test(
        checked,
        settings=settings(
            max_examples=examples,
            # A failing example is told as it is: to shrink one takes minutes.
            phases=[Phase.generate],
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_events_pays_once_drops_nothing_and_comes_to_an_end(new_url: NewUrl):
    check(LedgerModel, new_url, 12)


@pytest.mark.thorough
def test_any_order_of_events_does_so_on_postgresql(postgresql_url: str, ledger_template: str):
    check(LedgerModel, lambda: new_database(postgresql_url, ledger_template), 8)


class PostsBeforeItsIntent(Worker):
    """Looks, POSTs, and only then writes down that it was going to."""

    def claim(self, checked: CheckedJob, run_id: str, *, refresh: bool, limits: Limits) -> Claim:
        known = self.do(self.ledger.find([checked.key])).get(checked.key)
        decision = decide(known, refresh=refresh, run_id=run_id, now=self.now())
        if decision is not Decision.SUBMIT:
            return (
                AtCapacity()
                if known is None
                else super().claim(checked, run_id, refresh=False, limits=limits)
            )
        number = known.number + 1 if known else 1
        self.hands.append(Sending(checked, run_id, 0, number, "none yet"))
        return Claimed(0, number, "none yet")

    def write_down(self, sending: Sending) -> None:
        if not sending.attempt_id:
            limits = Limits(1000)
            job = sending.checked
            claim = super().claim(job, sending.run_id, refresh=True, limits=limits)
            if not isinstance(claim, Claimed):
                self.hands.remove(sending)
                return
            self.hands.pop()
            sending.attempt_id, sending.mark = claim.attempt_id, claim.mark
        super().write_down(sending)


class PostsAgainAfterATimeout(Worker):
    """Takes silence for a no."""

    def post(self, sending: Sending, answer: Answer) -> None:
        super().post(sending, answer)
        if answer is Answer.ACCEPTED_AND_LOST:
            super().post(sending, Answer.ACCEPTED)


def takes_silence_for_never_sent(connection: Connection, now: datetime) -> int:
    """A sweep that frees what a dead process was submitting."""
    sending = select(attempts).where(attempts.c.state == JobState.SUBMITTING)
    dead = [
        row.id
        for row in connection.execute(sending)
        if row.lease_until <= now or files.is_dead(row.owner)
    ]
    for attempt_id in dead:
        writes.move(connection, attempt_id, JobState.PLANNED, now, owner=None)
    return len(dead)


@pytest.mark.parametrize("mutant", [PostsBeforeItsIntent, PostsAgainAfterATimeout])
def test_a_worker_that_pays_twice_is_found(mutant: type[Worker], new_url: NewUrl):
    model = type(mutant.__name__, (LedgerModel,), {"worker_class": mutant})
    with pytest.raises(AssertionError, match=r"charged twice|posted again"):
        check(model, new_url, 25)


def test_a_sweep_that_takes_silence_for_never_sent_is_found(new_url: NewUrl):
    with (
        patch.object(writes, "end_dead_leases", takes_silence_for_never_sent),
        pytest.raises(AssertionError, match=r"twice|posted again|under way"),
    ):
        check(LedgerModel, new_url, 25)
