"""Many processes that want the same jobs at the same moment: each job is paid for once."""

from collections.abc import Callable

import pytest

from tests.crash.scene import Ended, Scene, broken_rules

SIZES = [(4, 10), pytest.param(8, 30, marks=pytest.mark.thorough)]
"""How many processes want how many jobs."""

MakeScene = Callable[..., Scene]


def assert_each_has_all(scene: Scene, ends: list[Ended]) -> None:
    for end in ends:
        assert end.code == 0, end.log
        assert len(end.json["outputs"]) == scene.items
        assert (end.json["in_doubt"], end.json["failed"]) == (0, 0)
    assert sum(end.json["submitted"] for end in ends) == scene.items
    assert broken_rules(scene) == []


@pytest.mark.parametrize(("processes", "jobs"), SIZES)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_many_processes_pay_for_each_job_once(
    scene: MakeScene, request: pytest.FixtureRequest, database: str, processes: int, jobs: int
) -> None:
    url = request.getfixturevalue("postgresql_database") if database == "postgresql" else None
    here = scene(items=jobs, ledger_url=url)

    started = [here.start_run() for _ in range(processes)]

    assert_each_has_all(here, [here.ended(one) for one in started])


@pytest.mark.parametrize(("processes", "jobs"), SIZES)
def test_one_of_many_that_is_killed_costs_nothing(
    scene: MakeScene, processes: int, jobs: int
) -> None:
    here = scene(items=jobs)
    started = [here.start_run() for _ in range(processes)]
    here.sandbox.until(lambda: len(here.requests()) >= 3, 120)

    started[0].kill()
    ends = [here.ended(one) for one in started]
    here.resolve()
    after = here.run()

    assert ends[0].code == -9
    # What it was sending when it died is in doubt, and the only thing that the others lack.
    for end in ends[1:]:
        assert end.code in {0, 1}, end.log
        assert len(end.json["outputs"]) + end.json["in_doubt"] == here.items, end.log
    assert (after.code, len(after.json["outputs"])) == (0, here.items), after.log
    assert broken_rules(here) == []


def test_reconcile_beside_a_run_takes_nothing_from_it(scene: MakeScene) -> None:
    here = scene(items=6)
    run = here.start_run()
    here.sandbox.until(here.requests, 120)

    beside = here.command("reconcile", "--json")
    ended = here.ended(run)

    assert beside.code == 0, beside.log
    assert beside.json["submitted"] == 0
    assert_each_has_all(here, [ended])
