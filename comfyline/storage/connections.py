"""Connections to storage that fsspec has a driver for: a few at a time, each used by one at a time.

The drivers block, and not all of them can be shared by two threads, so
every call is made in a thread with a connection of its own. A failure ends its connection.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from comfyline.errors import ComfylineError, Unreachable
from comfyline.redact import without_secrets
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.drivers import open_driver

T = TypeVar("T")

_AT_ONCE = 4
_LONGEST_REASON = 200


class Call(Protocol):
    """Does something blocking with one connection, in a thread."""

    async def __call__(self, work: Callable[[Any], T], /) -> T:
        """Raises `Unreachable`, and only of missing and existing files what Python has for them."""


class Connections:
    """The connections to one server or account, made when they are needed and kept for the next."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._scheme = base.partition("://")[0]
        self._idle: list[Any] = []
        self._working = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """Ends all connections that nobody uses at the moment."""
        while self._idle:
            await asyncio.to_thread(_close, self._idle.pop())

    async def do(self, work: Callable[[Any], T], trouble: str) -> T:
        """Does one thing; `trouble` says in an error what could not be done."""
        async with self.one(trouble) as call:
            return await call(work)

    @asynccontextmanager
    async def one(self, trouble: str) -> AsyncIterator[Call]:
        """One connection for several calls that belong together."""
        async with self._working:
            fs = self._idle.pop() if self._idle else await self._opened(trouble)
            is_sound = True

            async def call(work: Callable[[Any], T], /) -> T:
                nonlocal is_sound
                # Until it has ended: who is cancelled in between leaves a thread at work in it.
                is_sound = False
                try:
                    done = await asyncio.to_thread(work, fs)
                except (FileNotFoundError, FileExistsError):
                    is_sound = True
                    raise
                except ComfylineError:
                    raise
                except Exception as error:  # noqa: BLE001  # drivers raise what they like
                    raise self._said(error, trouble) from None
                is_sound = True
                return done

            try:
                yield call
            finally:
                if is_sound:
                    self._idle.append(fs)
                else:
                    await asyncio.to_thread(_close, fs)

    async def _opened(self, trouble: str) -> Any:
        try:
            return await asyncio.to_thread(open_driver, self._base)
        except ComfylineError:
            raise
        except Exception as error:  # noqa: BLE001
            raise self._said(error, trouble) from None

    def _said(self, error: Exception, trouble: str) -> Unreachable:
        """The driver's own words, without a chain: its text may hold what must not be seen."""
        told = str(getattr(error, "strerror", None) or error) or what_broke(error)
        reason = without_secrets(told.splitlines()[0])[:_LONGEST_REASON].rstrip(".")
        variables = f"FSSPEC_{self._scheme.upper()}_…"
        return Unreachable(
            f"{trouble}: {reason}",
            hint=f"Check the address, the network and the credentials ({variables} variables, or "
            "those that the driver reads).",
        )


def _close(fs: Any) -> None:
    with suppress(Exception):
        if close := getattr(fs, "close", None):
            close()
