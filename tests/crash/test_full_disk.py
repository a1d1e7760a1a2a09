"""Runs on a disk that is full: what was paid for is collected once there is room."""

from collections.abc import Callable

import pytest

from tests.crash.scene import Scene, broken_rules
from tests.small_disk import small_disk

MakeScene = Callable[..., Scene]


@pytest.mark.parametrize("full", ["home/work", "out"], ids=["fetching", "storing"])
def test_a_full_disk_is_told_and_costs_nothing(scene: MakeScene, full: str) -> None:
    here = scene()
    with small_disk(here.directory / full, "60k") as disk:
        (disk / "much").write_bytes(bytes(50_000))

        ended = here.run()

        assert ended.code == 69, ended.log
        [error] = ended.json["errors"]
        assert error["kind"] == "disk-full", ended.log
        assert "is full" in error["message"]
        assert "MB needed" in error["message"]
        assert error["request_id"] == here.requests()[0]["request_id"]
        assert here.state() == "completed"

    again = here.run()

    assert again.code == 0, again.log
    assert (again.json["persisted"], again.json["submitted"]) == (1, 0)
    assert broken_rules(here) == []
