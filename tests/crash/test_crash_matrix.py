"""kill -9 at every point between reading the YAML and the last rename; then it is run again.

At some of them something else is the matter as well.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pytest

from tests.conftest import Sandbox, new_database
from tests.crash.circumstances import CASES, USUAL, Circumstance
from tests.crash.conftest import LANES, in_lane
from tests.crash.playing import play
from tests.crash.points import POINTS, Point
from tests.crash.scene import Scene, Servers

Matrix = Mapping[str, "Future[tuple[str, ...]]"]


@dataclass(frozen=True)
class Death:
    """One death, and what else is the matter."""

    point: Point
    circumstance: Circumstance = USUAL

    @property
    def name(self) -> str:
        told = self.circumstance.name
        return f"{told}, {self.point.name}" if told else self.point.name


_BY_NAME = {point.name: point for point in POINTS}
DEATHS = [
    *(Death(point) for point in POINTS),
    *(Death(_BY_NAME[name], circumstance) for circumstance, names in CASES for name in names),
]
_SHORT = {
    *(
        f"{name}: {moment}"
        for name in ("hold", "claim", "accepted", "completed", "persisted", "hold released")
        for moment in ("before the commit", "committed")
    ),
    "ledger made: before the commit",
    "upload: half of the bytes",
    "journal: half of the place",
    "POST: half of the body sent",
    "POST: accepted, not answered",
    "POST: answer arrived, not read",
    "POST: answer understood",
    "result: half written down",
    "download: half",
    "persist: renamed, no sidecar",
    "s3: half of the file",
    "aside: copied, no sidecar",
}
"""Where a run dies in `make test`; at the other points it does in `make test-thorough`."""


def _parameter(death: Death) -> Any:
    marks = () if death.name in _SHORT else pytest.mark.thorough
    return pytest.param(death, id=death.name, marks=marks)


@pytest.fixture(scope="module")
def matrix(
    request: pytest.FixtureRequest,
    servers: Servers,
    free_lanes: "SimpleQueue[Sandbox]",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Matrix]:
    """The deaths of all tests that were asked for, played some at a time."""
    asked: dict[str, Death] = {
        item.callspec.params["death"].name: item.callspec.params["death"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_nothing_is_paid_twice_or_lost
    }
    folder = tmp_path_factory.mktemp("matrix")
    postgresql_url = ""
    if any(death.circumstance.needs_postgresql for death in asked.values()):
        postgresql_url = request.getfixturevalue("postgresql_url")

    def play_in_lane(number: int, death: Death) -> tuple[str, ...]:
        name, point, circumstance = f"point-{number:02}", death.point, death.circumstance
        more = {"to": point.to.format(name=name), "has_ledger": point.has_ledger}
        if circumstance.needs_postgresql:
            more["ledger_url"] = new_database(postgresql_url)
        with in_lane(free_lanes) as sandbox:
            scene = Scene(folder / name, sandbox, servers, **{**more, **circumstance.more})
            with circumstance.around(scene):
                played = play(point, scene, circumstance=circumstance)
            files = f"{point.to.partition(':')[0]}: picture, sidecar"
            return death.name, played.state, played.done, str(len(scene.requests())), files

    players = ThreadPoolExecutor(LANES)
    yield {
        name: players.submit(play_in_lane, number, death)
        for number, (name, death) in enumerate(asked.items())
    }
    players.shutdown(cancel_futures=True)


@pytest.mark.parametrize("death", [_parameter(death) for death in DEATHS])
def test_nothing_is_paid_twice_or_lost(death: Death, matrix: Matrix) -> None:
    matrix[death.name].result()
