"""down: stop the local stack."""

from comfyline.cli.console import print_line
from comfyline.config.load import home
from comfyline.stack.stack import stop


async def down() -> None:
    """Stop what `up` started, and nothing else. Nothing is deleted.

    Example: comfyline down
    """
    if not await stop(home(), tell=print_line):
        print_line("Nothing was running.")
