"""What every flow does around its work."""

import gc
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from flows.session import with_services


async def test_the_garbage_of_one_flow_run_is_not_kept_for_good_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freeze = Mock()
    monkeypatch.setattr(gc, "freeze", freeze)
    with disable_run_logger():
        for _ in range(2):
            assert (await with_services("no-such-profile", Mock())).is_failed()
    assert freeze.call_count <= 1
