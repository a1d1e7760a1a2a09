"""What the contract's tests share: a scripted server, the client, a session without proxy."""

from collections.abc import AsyncIterator, Iterator

import pytest
from requests import Session

from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.retry import RetryBudget
from tests.runcomfy.conftest import Script, serving

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
def script() -> Iterator[Script]:
    with serving() as script:
        yield script


@pytest.fixture(scope="module")
async def client(script: Script) -> AsyncIterator[RuncomfyClient]:
    """A client that asks once: what it makes of an answer is in question, not how often it asks."""
    budget = RetryBudget(0, lambda: 0.0, _no_sleep)
    balance_url = f"{script.url}/prod/v2/balance"
    async with RuncomfyClient(script.url, TOKEN, budget, balance_url) as client:
        yield client
