"""What the contract's tests share: a recording server, the client, a session without proxy."""

from collections.abc import AsyncIterator, Iterator

import pytest
from requests import Session

from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.retry import RetryBudget
from tests.contract.recorder import Recorder, recording

TOKEN = "rc_the-token-of-the-contract"


async def _no_sleep(_seconds: float) -> None:
    pass


@pytest.fixture(scope="module")
def web() -> Iterator[Session]:
    """Connections that schemathesis keeps; a proxy of the machine's is none of its business."""
    with Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture(scope="module")
async def client(recorder: Recorder) -> AsyncIterator[RuncomfyClient]:
    """A client that asks once: what it makes of an answer is in question, not how often it asks."""
    budget = RetryBudget(0, lambda: 0.0, _no_sleep)
    balance_url = f"{recorder.url}/prod/v2/balance"
    async with RuncomfyClient(recorder.url, TOKEN, budget, balance_url) as client:
        yield client
