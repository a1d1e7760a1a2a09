"""The checks of this folder notice what they are for: each mistake that costs money fails one."""

from collections.abc import Callable

import pytest

from tests.crash.playing import play
from tests.crash.points import POINTS, Point
from tests.crash.scene import Scene, broken_rules

MakeScene = Callable[..., Scene]


def point(name: str) -> Point:
    [found] = [one for one in POINTS if one.name == name]
    return found


def test_an_intent_that_is_committed_after_the_post_is_noticed(scene: MakeScene) -> None:
    here = scene()

    with pytest.raises(AssertionError, match="'in_doubt': 0, 'submitted': 1"):
        play(
            point("POST: answer understood"),
            here,
            mutation="the intent is committed after the post",
        )

    assert "2 charges for 1 jobs" in broken_rules(here)


def test_a_post_that_is_repeated_after_a_read_timeout_is_noticed(scene: MakeScene) -> None:
    here = scene()
    here.sandbox.order(on="submit", kind="delay", seconds=5)

    ended = here.ended(here.start_run(mutation="a post is repeated after a read timeout"))

    assert ended.code == 0, ended.log
    assert "2 charges for 1 jobs" in broken_rules(here)


@pytest.mark.thorough
def test_a_request_id_that_is_not_written_before_polling_is_noticed(scene: MakeScene) -> None:
    here = scene()

    with pytest.raises(AssertionError, match="in doubt"):
        play(
            point("poll: first status"),
            here,
            mutation="the request id is written after polling",
        )

    assert here.state() == "in_doubt"
