"""Whether a server is well: its process lives, it is the one that listens, and it answers."""

import asyncio
import time
from enum import Enum

import httpx

from comfyline.stack.process import Record, listens
from comfyline.stack.services import Service, origin


class Health(Enum):
    """What is known of a recorded process."""

    WELL = "well"
    UNWELL = "unwell"  # it lives and does not answer as it should, or not yet
    ENDED = "ended"


def http_client() -> httpx.AsyncClient:
    """A client for questions to 127.0.0.1, which no proxy of the environment may answer."""
    return httpx.AsyncClient(trust_env=False, timeout=5.0)


async def look(client: httpx.AsyncClient, service: Service, record: Record) -> Health:
    """Asks once."""
    if not record.is_alive():
        return Health.ENDED
    # Before the question: another server can have taken the port, and would answer in the place
    # of ours, which is about to find that out and end.
    if not listens(record):
        return Health.UNWELL
    try:
        answer = await client.get(origin(record.port) + service.health_path)
    except httpx.HTTPError:
        return Health.UNWELL
    well = service.answers_well(answer.status_code, answer.text.strip())
    return Health.WELL if well else Health.UNWELL


async def wait_until_well(client: httpx.AsyncClient, service: Service, record: Record) -> Health:
    """Asks until the server is well or has ended, for as long as a start may take."""
    limit = time.monotonic() + service.start_limit
    while (health := await look(client, service, record)) is Health.UNWELL:
        if time.monotonic() > limit:
            break
        await asyncio.sleep(0.1)
    return health
