"""Child processes: the environment they get, and how they end whatever happens to a benchmark."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

_FOREIGN = ("PREFECT_", "RUNCOMFY_", "COMFYLINE_", "AWS_")
_STOP_LIMIT = 8.0


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process without what would lead to somebody's servers."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    return kept | {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"} | more


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: politely, and after some seconds by force."""
    process.terminate()
    try:
        process.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
