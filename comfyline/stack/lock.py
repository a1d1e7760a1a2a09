"""One at a time: whoever starts or stops servers in a home holds its lock."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from comfyline.stack.layout import private_folder


@asynccontextmanager
async def held(lock: Path, tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Holds the lock of a home; waits for it as long as another holds it.

    The kernel gives it up with the process, so nothing is left of it after a `kill -9`. The
    servers do not inherit it, because Python opens files so that a child does not keep them.
    """
    descriptor = _open(lock)
    try:
        if not _take(descriptor):
            tell("another comfyline is starting or stopping the stack here; waiting for it")
            # Asked again and again, not blocked on in a thread: Ctrl-C must end the wait.
            while not _take(descriptor):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _open(lock: Path) -> int:
    private_folder(lock.parent)
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
