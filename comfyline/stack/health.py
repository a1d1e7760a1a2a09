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
    OPEN = "open"  # it lives and lets in whoever comes, or asks for another password than ours
    ENDED = "ended"


def http_client() -> httpx.AsyncClient:
    """Open a client for questions to 127.0.0.1, which no proxy of the environment may answer."""
    return httpx.AsyncClient(trust_env=False, timeout=5.0)


async def look(
    client: httpx.AsyncClient, service: Service, record: Record, auth_string: str | None
) -> Health:
    """Ask once. `auth_string` is the home's `user:password`, None where it has none yet."""
    if not record.is_alive():
        return Health.ENDED
    # Before the question: another server can have taken the port, and would answer in the place
    # of ours, which is about to find that out and end.
    if not listens(record):
        return Health.UNWELL
    try:
        answer = await client.get(origin(record.port) + service.health_path)
        if not service.answers_well(answer.status_code, answer.text.strip()):
            return Health.UNWELL
        if service.guarded_path is None:
            return Health.WELL
        return await _guarded(client, origin(record.port) + service.guarded_path, auth_string)
    except httpx.HTTPError:
        return Health.UNWELL


async def _guarded(client: httpx.AsyncClient, url: str, auth_string: str | None) -> Health:
    """Tell whether strangers are turned away there, and we are not.

    A server that is too busy to say so is not open: it would be started anew under those it serves.
    """
    if auth_string is None:
        return Health.OPEN
    stranger = await client.get(url)
    ours = await client.get(url, auth=basic_auth(auth_string))
    refused = httpx.codes.UNAUTHORIZED
    if stranger.is_success or ours.status_code == refused:
        return Health.OPEN
    return Health.WELL if stranger.status_code == refused and ours.is_success else Health.UNWELL


def basic_auth(auth_string: str) -> httpx.BasicAuth:
    """Encode `user:password` as a client sends it."""
    user, _, password = auth_string.partition(":")
    return httpx.BasicAuth(user, password)


async def wait_until_well(
    client: httpx.AsyncClient, service: Service, record: Record, auth_string: str | None
) -> Health:
    """Ask until the server is well or has ended, for as long as a start may take."""
    limit = time.monotonic() + service.start_limit
    while (health := await look(client, service, record, auth_string)) is Health.UNWELL:
        if time.monotonic() > limit:
            break
        await asyncio.sleep(0.1)
    return health
