"""Every stored file read again and compared with the SHA-256 that was written down for it.

By the ledger, or by the sidecars alone, which is possible anywhere and at any time later. Nothing
is repaired here.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

from comfyline.errors import Unreachable
from comfyline.ledger.attempts import Attempt
from comfyline.storage.place import Place
from comfyline.storage.places import Places
from comfyline.storage.sidecar import SUFFIX, read_sidecar

_AT_ONCE = 8


class Integrity(StrEnum):
    """What became of a file that was stored."""

    RIGHT = "right"
    CHANGED = "changed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NO_SIDECAR = "no sidecar"


@dataclass(frozen=True, slots=True)
class Expected:
    """A file as it was stored, and of which job it is."""

    uri: str
    sha256: str
    bytes: int
    job: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found of one file; `detail` says what is wrong with it."""

    uri: str
    verdict: Integrity
    detail: str = ""
    bytes: int = 0
    job: str | None = None


def of_ledger(attempts: Iterable[Attempt]) -> Iterator[Expected | Verified]:
    """List every output that the ledger knows of some attempts."""
    for attempt in attempts:
        for output in attempt.outputs:
            yield Expected(output.uri, output.sha256, output.bytes, attempt.checked.key)


async def of_target(target: str, places: Places) -> AsyncIterator[Expected | Verified]:
    """List every file in a folder or under a prefix, as its sidecar describes it.

    A file without one is found too, and a sidecar without its file.
    """
    place = places.of_folder(target)
    try:
        async with aclosing(place.files_in(target)) as listed:
            files = {one.uri async for one in listed if not _is_hidden(one.uri)}
    except Unreachable as error:
        yield Verified(target, Integrity.UNREADABLE, error.message)
        return
    if not files:
        yield Verified(target, Integrity.MISSING, "there is nothing")
    for uri in sorted(files):
        if uri.endswith(SUFFIX) and uri.removesuffix(SUFFIX) in files:
            continue
        if f"{uri}{SUFFIX}" in files:
            yield await _described(uri, f"{uri}{SUFFIX}", place)
        elif not uri.endswith(SUFFIX):
            yield Verified(uri, Integrity.NO_SIDECAR)
        else:
            alone = await _described(uri.removesuffix(SUFFIX), uri, place)
            yield alone if isinstance(alone, Expected) else Verified(uri, Integrity.NO_SIDECAR)


async def verify(
    files: AsyncIterator[Expected | Verified], places: Places, hear: Callable[[Verified], None]
) -> None:
    """Read every file, a few at a time, and tell `hear` of each."""
    taking = asyncio.Lock()

    async def work() -> None:
        while True:
            async with taking:
                one = await anext(files, None)
            if one is None:
                return
            hear(one if isinstance(one, Verified) else await _verified(one, places))

    async with asyncio.TaskGroup() as workers:
        for _ in range(_AT_ONCE):
            workers.create_task(work())


async def _verified(expected: Expected, places: Places) -> Verified:
    uri, job = expected.uri, expected.job
    try:
        found = await places.of(uri).sha256(uri)
    except Unreachable as error:
        return Verified(uri, Integrity.UNREADABLE, error.message, job=job)
    if found is None:
        return Verified(uri, Integrity.MISSING, job=job)
    if found != expected.sha256:
        detail = f"SHA-256 {found}, expected {expected.sha256}"
        return Verified(uri, Integrity.CHANGED, detail, expected.bytes, job)
    return Verified(uri, Integrity.RIGHT, bytes=expected.bytes, job=job)


async def _described(uri: str, sidecar_uri: str, place: Place) -> Expected | Verified:
    try:
        sidecar = await read_sidecar(place, sidecar_uri)
    except Unreachable as error:
        return Verified(uri, Integrity.UNREADABLE, error.message)
    except ValueError as broken:
        return Verified(uri, Integrity.UNREADABLE, f"{sidecar_uri}: {broken}")
    if sidecar is None:
        return Verified(uri, Integrity.NO_SIDECAR)
    return Expected(uri, sidecar.output.sha256, sidecar.output.bytes, sidecar.job)


def _is_hidden(uri: str) -> bool:
    """Tell whether a file is a temporary one, or one of the system's own."""
    return uri.rpartition("/")[2].startswith(".")
