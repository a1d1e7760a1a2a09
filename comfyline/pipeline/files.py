"""Which files a source's pattern finds, on this machine and in object storage."""

import asyncio
import glob
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.pipeline.globs import alternatives, fits, is_plain, natural, prefixes

ListObjects = Callable[[str], AsyncGenerator[str, None]]
"""Gives the addresses of all objects that begin with a prefix."""

_BESIDE = 1000
"""Names that are looked through for the one that was meant."""


def local_files(pattern: str, where: str, *, is_pattern: bool = True) -> list[str]:
    """The files of this machine that a pattern matches, in their natural order.

    What names one file outright has to be there; else `InputInvalid` says so at `where`.
    """
    if Path(pattern).is_file():
        return [Path(pattern).as_posix()]
    if is_plain(pattern) or not is_pattern:
        raise InputInvalid([_no_file(pattern, where)])
    matches = (
        match
        for each in alternatives(pattern)
        for match in glob.glob(each, recursive=True)  # noqa: PTH207 — Path.glob takes no absolute pattern and drops a leading ./
    )
    return sorted({Path(one).as_posix() for one in matches if Path(one).is_file()}, key=natural)


async def stored_files(pattern: str, where: str, list_objects: ListObjects) -> list[str]:
    """The same for the objects under an `s3://` pattern; folders' own markers are none."""
    bucket, _, key = pattern.removeprefix("s3://").partition("/")
    if not bucket or not is_plain(bucket):
        hint = "write s3://bucket/folder/*.jpg"
        raise InputInvalid([Problem(where, f"{pattern} should name one bucket", hint)])
    if not key:
        raise InputInvalid([_is_folder(pattern, where)])
    patterns = alternatives(pattern)
    found: set[str] = set()
    for prefix in prefixes(patterns):
        async with aclosing(list_objects(prefix)) as uris:
            async for uri in uris:
                if uri == pattern:
                    return [uri]
                if not uri.endswith("/") and any(fits(each, uri) for each in patterns):
                    found.add(uri)
    if is_plain(pattern):
        raise InputInvalid([await no_such_object(pattern, where, list_objects)])
    return await asyncio.to_thread(sorted, found, key=natural)


def _no_file(pattern: str, where: str) -> Problem:
    path = Path(pattern)
    if path.is_dir():
        return _is_folder(pattern, where)
    folder = path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    hint = did_you_mean(path.name, names) if folder.is_dir() else f"there is no folder {folder}"
    return Problem(where, f"no such file: {pattern}", hint)


async def no_such_object(address: str, where: str, list_objects: ListObjects) -> Problem:
    """Says that an object is not there, and which one is."""
    folder, _, name = address.rstrip("/").rpartition("/")
    beside: dict[str, None] = {}
    async with aclosing(list_objects(f"{folder}/")) as uris:
        async for uri in uris:
            first, below, _ = uri.removeprefix(f"{folder}/").partition("/")
            if below and first == name:
                return _is_folder(address, where)
            if not below:
                beside[first] = None
            if len(beside) == _BESIDE:
                break
    return Problem(where, f"no such file: {address}", did_you_mean(name, list(beside)))


def _is_folder(pattern: str, where: str) -> Problem:
    return Problem(where, f"{pattern} is a folder", f"write {pattern.rstrip('/')}/*")
