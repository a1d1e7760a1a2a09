"""How a flow hears that it has to stop."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from comfyline.config.settings import StorageSettings
from comfyline.run import CancelToken
from comfyline.services import Services, open_services
from flows.session import watch_for_cancellation
from tests.operations.conftest import settings

RUN = str(uuid4())


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    none = StorageSettings("s3://none/uploads", "http://127.0.0.1:9", None, None, 60)
    # A Prefect server that is away tells nothing.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        async with open_services(settings(tmp_path, none)) as opened:
            await opened.ledger.open_run(RUN, "p")
            yield opened


async def told_to_end(services: Services, *, others_go_on: bool = True) -> CancelToken:
    """What a flow makes of a SIGTERM."""
    token = CancelToken()
    async with watch_for_cancellation(token, RUN, RUN, services):
        token.may_hand_over = others_go_on
        # The watch has begun.
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(token.cancelled(), 20)
    return token


async def test_a_process_that_is_told_to_end_hands_over_where_others_go_on(services: Services):
    token = await told_to_end(services)
    assert (token.hands_over, token.reason) == (True, "its process was told to end")
    token = await told_to_end(services, others_go_on=False)
    assert (token.hands_over, token.reason) == (False, "its process was told to end")


async def test_where_the_run_itself_was_cancelled_nothing_is_handed_over(services: Services):
    token = CancelToken()
    async with watch_for_cancellation(token, RUN, RUN, services):
        token.may_hand_over = True
        await asyncio.sleep(0.1)
        await services.ledger.stop_run(RUN)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(token.cancelled(), 20)
    assert (token.hands_over, "cancel --run" in token.reason) == (False, True)


async def test_a_run_that_is_retried_does_not_stop_by_what_its_earlier_try_was_told(
    services: Services,
):
    await services.ledger.stop_run(RUN)
    # It is still being planned, and not yet opened anew.
    assert (await told_to_end(services)).hands_over
