"""A ledger that is younger than what was paid for: restored, made anew, another machine's.

Through the real command line, each scene with a home, a ledger and a paid origin of its own.
"""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.job import JobState
from comfyline.ledger.journal import JOURNAL
from tests.crash.breaks import Break
from tests.crash.scene import Ended, Scene, broken_rules
from tests.forking import Command, start

MakeScene = Callable[..., Scene]
COUNTS = ("jobs", "persisted", "reused", "submitted", "in_doubt")


def counts(ended: Ended) -> dict[str, int]:
    """What is not nought of a run's numbers."""
    assert ended.stdout, ended.log
    return {name: ended.json[name] for name in COUNTS if ended.json[name]}


def restore_an_older_ledger(here: Scene) -> None:
    """Puts the ledger of before the first run in the place of today's."""
    for path in here.home.glob("ledger.sqlite3*"):
        path.unlink()
    shutil.copyfile(here.servers.empty_ledger, here.home / "ledger.sqlite3")


def limit_files(most_bytes: int) -> None:
    """Lets this process write no file beyond a size, as if its disk were full there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def test_a_restored_ledger_pays_for_nothing_again(scene: MakeScene) -> None:
    here = scene(items=3)
    first = here.run()
    assert counts(first) == {"jobs": 3, "persisted": 3, "submitted": 3}, first.log
    restore_an_older_ledger(here)

    planned = here.command("plan", "crash.yaml")
    again = here.run()

    assert "nothing to do" in planned.stdout, planned.log
    assert counts(again) == {"jobs": 3, "reused": 3}, again.log
    assert "3 accepted requests that the ledger did not have" in again.log
    assert "this place was used before" in again.log
    assert broken_rules(here) == []


@pytest.mark.thorough
def test_what_a_restored_ledger_has_no_file_of_is_collected(scene: MakeScene) -> None:
    here = scene(items=2)
    assert here.run().code == 0
    restore_an_older_ledger(here)
    shutil.rmtree(here.directory / "out")

    named = here.command("jobs")
    collected = here.command("reconcile", "--json")

    assert named.log.count("is not in the ledger") == 2, named.log
    assert counts(collected) == {"jobs": 2, "persisted": 2}, collected.log
    assert broken_rules(here) == []


def test_a_fresh_checkout_adopts_what_lies_there(scene: MakeScene) -> None:
    here = scene(items=3)
    first = here.run()
    shutil.rmtree(here.home)

    planned = here.command("plan", "crash.yaml")
    assert "3 jobs that the ledger does not know adopted" in planned.log
    assert not (here.home / "ledger.sqlite3").exists(), "a plan writes nothing"
    again = here.run()

    assert counts(again) == {"jobs": 3, "reused": 3}, again.log
    assert "3 jobs adopted from the sidecars of 3 outputs" in again.log
    costs = [attempt.cost_usd or 0.0 for attempt in here.attempts()]
    assert sum(costs) == pytest.approx(first.json["cost_usd"])
    assert broken_rules(here) == []
    assert counts(here.run()) == {"jobs": 3, "reused": 3}


def test_a_changed_file_is_not_taken_for_what_was_paid_for(scene: MakeScene) -> None:
    here = scene(items=2)
    here.run()
    changed, _ = sorted((here.directory / "out").glob("*.jpeg")) or sorted(
        (here.directory / "out").glob("*.jpg")
    )
    changed.write_bytes(bytes(changed.stat().st_size))
    shutil.rmtree(here.home)

    planned = here.command("plan", "crash.yaml")

    assert "1 job that the ledger does not know adopted" in planned.log


@pytest.mark.thorough
def test_a_sidecar_of_before_origins_blocks_until_somebody_says_whose_it_is(
    scene: MakeScene,
) -> None:
    here = scene(items=2)
    here.run()
    shutil.rmtree(here.home)
    for path in (here.directory / "out").glob("*.json"):
        told = json.loads(path.read_text())
        kept = {k: v for k, v in told.items() if k not in {"origin", "account", "outputs"}}
        path.write_text(json.dumps(kept))

    planned = here.command("plan", "crash.yaml")
    blocked = here.run()

    assert "2 jobs blocked by a run" in planned.log
    assert "blocked: its sidecar does not name an account" in planned.stdout
    assert (blocked.code, counts(blocked)) == (1, {"jobs": 2, "in_doubt": 2}), blocked.log
    mine, other = here.attempts()
    asked = here.command("resolve", mine.checked.key)
    assert f"comfyline resolve {mine.checked.key[:12]} --adopt" in asked.log
    assert here.command("resolve", mine.checked.key, "--adopt").code == 0
    assert here.command("resolve", other.checked.key, "--lost").code == 0
    ended = here.run()
    assert counts(ended) == {"jobs": 2, "persisted": 1, "reused": 1, "submitted": 1}, ended.log
    assert len(here.requests()) == 3


def test_an_answer_that_comes_after_lost_is_paid_for_and_collected(scene: MakeScene) -> None:
    """Machine A dies before its ledger hears of the id; on machine B a person says --lost."""
    here = scene()
    home_a, home_b = here.home, here.directory / "home-b"
    died = here.start_run(Break("after", "comfyline.ledger.journal:Journal.accepted"))
    assert here.ended(died).code == -9
    here.home = home_b
    assert counts(here.run()) == {"jobs": 1, "in_doubt": 1}
    [doubt] = here.attempts()
    lost = here.command("resolve", doubt.checked.key, "--lost")
    assert lost.code == 0, lost.log
    assert "that of another may" in lost.log
    assert counts(here.run()) == {"jobs": 1, "persisted": 1, "submitted": 1}

    here.home = home_a
    named = here.command("status")
    collected = here.command("reconcile", "--json")
    audited = here.command("audit")

    assert "is not in the ledger" in named.log
    assert counts(collected) == {"jobs": 1, "persisted": 1}, collected.log
    assert {one.state for one in here.attempts()} == {JobState.PERSISTED}
    assert {one.request_id for one in here.attempts()} == {
        row["request_id"] for row in here.requests()
    }
    assert "the first was declared lost" in audited.stdout + audited.log
    assert "submitted" not in counts(here.run())
    assert len(here.requests()) == 2


def test_what_the_journal_knows_is_not_said_to_be_lost(scene: MakeScene) -> None:
    here = scene()
    died = here.start_run(Break("after", "comfyline.ledger.journal:Journal.accepted"))
    assert here.ended(died).code == -9
    [attempt] = here.attempts()

    refused = here.command("resolve", attempt.checked.key, "--lost")

    assert refused.code == 64
    assert "collects request" in refused.log
    assert here.run().code == 0
    assert broken_rules(here) == []


def test_a_request_id_can_be_given_after_lost(scene: MakeScene) -> None:
    here = scene()
    died = here.start_run(Break("after", "comfyline.runcomfy.client:RuncomfyClient.submit"))
    assert here.ended(died).code == -9
    here.command("reconcile")
    [attempt] = here.attempts()
    assert here.command("resolve", attempt.checked.key, "--lost").code == 0
    [row] = here.requests()

    found = here.command("resolve", attempt.checked.key, "--request-id", row["request_id"])

    assert found.code == 0, found.log
    assert counts(here.run()) == {"jobs": 1, "persisted": 1}
    assert broken_rules(here) == []


def test_a_full_disk_lets_no_post_leave(scene: MakeScene) -> None:
    here = scene()
    journal = here.home / JOURNAL
    filler = (b" " * 1023 + b"\n") * 8192
    journal.write_bytes(b'{"journal": "full", "version": 1}\n' + filler)
    full = journal.stat().st_size + 100
    command = Command(
        arguments=("run", "crash.yaml", "--json", "--profile", "profile.yaml"),
        directory=str(here.directory),
        environment=here.servers.environment
        | {"COMFYLINE_HOME": str(here.home), "COMFYLINE_LEDGER_URL": here.ledger_url},
        output=str(here.directory / "full"),
        changes=((f"{__name__}:limit_files", full),),
    )

    stopped = here.ended(start(here.servers.forks, command))

    assert stopped.code == 75, stopped.log
    assert counts(stopped) == {"jobs": 1}, "neither made nor failed"
    assert "Free some space on that disk" in stopped.log
    assert here.requests() == []
    assert [one.state for one in here.attempts()] == [JobState.PLANNED]
    assert counts(here.run()) == {"jobs": 1, "persisted": 1, "submitted": 1}


def test_two_ledgers_of_one_machine_pay_for_a_job_once(scene: MakeScene, tmp_path: Path) -> None:
    here = scene()
    assert counts(here.run()) == {"jobs": 1, "persisted": 1, "submitted": 1}
    shutil.rmtree(here.directory / "out")
    here.ledger_url = f"sqlite:///{tmp_path / 'other.sqlite3'}"

    assert counts(here.command("reconcile", "--json")) == {}, "it is the other one's"
    again = here.run()

    assert counts(again) == {"jobs": 1, "persisted": 1}, again.log
    assert "this place was used before: 1 accepted in the journal" in again.log
    assert f"1 paid for in the ledger {here.home / 'ledger.sqlite3'}" in again.log
    assert len(here.requests()) == 1
