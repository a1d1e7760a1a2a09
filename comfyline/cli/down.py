"""down: stop the local stack."""

import asyncio

from comfyline.cli.console import print_line
from comfyline.config.load import home
from comfyline.stack.stack import stop


def down() -> int:
    """Stop what `up` started, and nothing else. Nothing is deleted.

    Example: comfyline down
    """
    if not asyncio.run(stop(home(), tell=print_line)):
        print_line("Nothing was running.")
    return 0
