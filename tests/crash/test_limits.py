"""The limits of an account hold over all processes, as RunComfy sees it, also after a kill."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sandbox
from tests.crash.scene import Scene, Servers, broken_rules

LIMITS = [("sqlite", 3, 100), ("postgresql", 3, 100), ("postgresql", 30, 6)]
"""On which ledger, how many in flight, how many a second."""
_UNEVEN = 0.25
"""Seconds between a POST that leaves and its arrival, on a busy machine."""


@pytest.fixture
def slow_sandbox(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """One that has each request for a while."""
    return start_sandbox(slots=20, speed=3)


@pytest.fixture
def limited(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Servers, slow_sandbox: Sandbox
) -> Callable[[str, int, int], Scene]:
    """Makes a scene of thirty jobs under such limits."""

    def made(database: str, in_flight: int, per_second: int) -> Scene:
        url = request.getfixturevalue("postgresql_database") if database != "sqlite" else None
        scene = Scene(tmp_path / "limits", slow_sandbox, servers, items=30, ledger_url=url)
        profile = scene.directory / "profile.yaml"
        limits = f"in_flight: {in_flight}, submits_per_second: {per_second}"
        usual = r"in_flight: \d+, submits_per_second: \d+"
        profile.write_text(re.sub(usual, limits, profile.read_text()))
        return scene

    return made


def seen_by(sandbox: Sandbox) -> list[tuple[float, float]]:
    """When each request arrived at the sandbox, and when it had ended there."""
    file = sandbox.state / "sandbox.sqlite3"
    with sqlite3.connect(file) as state:
        query = "SELECT created_at, finished_at FROM requests ORDER BY created_at"
        return list(state.execute(query))


def most_at_once(seen: list[tuple[float, float]]) -> int:
    return max(sum(began <= at < ended for began, ended in seen) for at, _ in seen)


@pytest.mark.parametrize(("database", "in_flight", "per_second"), LIMITS)
def test_processes_of_which_one_is_killed_keep_to_slots_and_pace(
    limited: Callable[[str, int, int], Scene], database: str, in_flight: int, per_second: int
) -> None:
    here = limited(database, in_flight, per_second)
    started = [here.start_run() for _ in range(3)]
    here.sandbox.until(lambda: len(here.requests()) >= 6, 120)
    started[0].kill()
    ends = [here.ended(one) for one in started]
    here.resolve()
    after = here.run()

    assert ends[0].code == -9
    assert (after.code, len(after.json["outputs"])) == (0, here.items), after.log
    assert broken_rules(here) == []
    seen = seen_by(here.sandbox)
    assert len(seen) == here.items
    assert most_at_once(seen) <= in_flight
    for first, (at, _) in enumerate(seen):
        for later, (then, _) in enumerate(seen[first:]):
            assert later <= per_second * (then - at + _UNEVEN) + 1


def test_a_run_that_shares_begins_the_three_jobs_of_one_client_beside_many_of_another(
    limited: Callable[[str, int, int], Scene],
) -> None:
    here = limited("sqlite", 2, 100)
    pipeline = here.directory / "crash.yaml"
    # The last three of thirty are another client's.
    client = "{{ 'few' if item.name[-2:] in ('27', '28', '29') else 'many' }}"
    shared = f'labels: {{client: "{client}"}}\nlimits: {{share: label.client, '
    pipeline.write_text(pipeline.read_text().replace("limits: {", shared))

    ended = here.run()

    assert (ended.code, len(ended.json["outputs"])) == (0, here.items), ended.log
    order = sorted(here.requests(), key=lambda row: row["created_at"])
    few = [at for at, row in enumerate(order) if row["input"]["prompt"][-2:] in {"27", "28", "29"}]
    assert len(few) == 3
    assert few[-1] < 9, few
