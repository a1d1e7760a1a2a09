"""up: start the local stack."""

from comfyline.cli.console import print_line
from comfyline.cli.status import status
from comfyline.config.load import start_services
from comfyline.stack.services import SERVICES


async def up() -> None:
    """Start the local stack: Prefect server with its web page, object storage, sandbox.

    What is already running is left alone. Ports: COMFYLINE_PREFECT_PORT, COMFYLINE_STORAGE_PORT,
    COMFYLINE_SANDBOX_PORT; otherwise free ones are found and kept.

    Example: comfyline up
    """
    await start_services(SERVICES, print_line)
    await status()
