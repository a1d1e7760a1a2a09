"""kill -9 at every point between reading the YAML and the last rename; then it is run again."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from tests.conftest import Sandbox
from tests.crash.conftest import LANES, in_lane
from tests.crash.playing import play
from tests.crash.points import POINTS, Point
from tests.crash.scene import Scene, Servers
from tests.crash.table import tell_row

Matrix = Mapping[str, "Future[tuple[str, ...]]"]


@pytest.fixture(scope="module")
def matrix(
    request: pytest.FixtureRequest,
    servers: Servers,
    free_lanes: "SimpleQueue[Sandbox]",
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Matrix]:
    """The points of all tests that were asked for, played some at a time."""
    asked = {
        item.callspec.params["point"].name: item.callspec.params["point"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_nothing_is_paid_twice_or_lost
    }
    folder = tmp_path_factory.mktemp("matrix")

    def play_in_lane(number: int, point: Point) -> tuple[str, ...]:
        name = f"point-{number:02}"
        with in_lane(free_lanes) as sandbox:
            scene = Scene(
                folder / name,
                sandbox,
                servers,
                to=point.to.format(name=name),
                has_ledger=point.has_ledger,
            )
            played = play(point, scene)
            files = f"{point.to.partition(':')[0]}: picture, sidecar"
            return point.name, played.state, played.done, str(len(scene.requests())), files

    players = ThreadPoolExecutor(LANES)
    yield {
        name: players.submit(play_in_lane, number, point)
        for number, (name, point) in enumerate(asked.items())
    }
    players.shutdown(cancel_futures=True)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_nothing_is_paid_twice_or_lost(point: Point, matrix: Matrix) -> None:
    tell_row(*matrix[point.name].result())
