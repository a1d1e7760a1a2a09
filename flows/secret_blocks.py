"""Prefect's Secret blocks: where a profile may keep the token and the ledger's address."""

from typing import Any

import httpx
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL

from comfyline.errors import UsageError


async def read_secret_block(name: str) -> str:
    """What a Secret block holds, as it was typed.

    The server is asked for it anew each time; it is in no log and in no result. Raises `UsageError`
    when there is none, or when the server would tell it to anybody.
    """
    await _refuse_open_server(name)
    try:
        block: Secret[Any] = await Secret.aload(name)
    except ValueError:
        raise UsageError(
            f"There is no Prefect Secret block `{name}` at this Prefect server",
            hint="Make it on the page Blocks, of the type Secret, or in Python by "
            f'Secret(value="…").save("{name}").',
        ) from None
    held = block.value.get_secret_value()
    if not isinstance(held, str):
        raise UsageError(
            f"The Prefect Secret block `{name}` holds no text",
            hint="Store the secret itself in it, not JSON.",
        )
    return held


async def _refuse_open_server(name: str) -> None:
    """Asks for blocks as a stranger does, without credentials: who is answered could read all."""
    api_url = str(PREFECT_API_URL.value()).rstrip("/")
    try:
        # Nothing secret is sent or told, so that nobody's certificate needs to be known.
        async with httpx.AsyncClient(verify=False, timeout=30) as stranger:  # noqa: S501
            answer = await stranger.post(f"{api_url}/block_documents/filter", json={"limit": 1})
    except httpx.HTTPError:
        return  # Prefect's own client says so better.
    if answer.is_success:
        raise UsageError(
            f"The Prefect server at {api_url} asks nobody for a password: whoever reaches it could "
            f"read the Secret block `{name}`, so no secret is taken from there",
            hint="Start it with PREFECT_SERVER_API_AUTH_STRING=user:password, set "
            "PREFECT_API_AUTH_STRING to the same here and for its workers, and change the secret; "
            "or name a variable in the profile instead of a block.",
        )
