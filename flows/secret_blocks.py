"""Prefect's Secret blocks: where a profile may keep the token and the ledger's address."""

from typing import Any

from prefect.blocks.system import Secret

from comfyline.errors import UsageError


async def read_secret_block(name: str) -> str:
    """What a Secret block holds, as it was typed. Raises `UsageError` when there is none.

    The server is asked for it anew each time; it is in no log and in no result.
    """
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
