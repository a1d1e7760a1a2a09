"""Read items: files by a glob, the rows of a table, or what the pipeline itself lists."""

import asyncio
import glob
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from comfyline.errors import InputInvalid, Problem, did_you_mean
from comfyline.job import Item
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.references import FILE_FIELDS
from comfyline.pipeline.tables import read_table
from comfyline.redact import without_secrets
from comfyline.storage.place import Place
from comfyline.yaml.nodes import nearest_file

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_RECURSIVE = "**"
_NAME_FIELDS = ("name", "id", "sku")
_S3 = "s3://"
_BESIDE = 1000
"""Names that are looked through for the one that was meant."""


def stored_source(pipeline: Pipeline) -> str | None:
    """Return the address of a source that lies in object storage, if it does."""
    source = pipeline.document.source
    written = source.files or source.table or ""
    return written if written.startswith(_S3) else None


def nothing_to_do(pipeline: Pipeline) -> str:
    """Return the sentence for a source that gives no items, which is no mistake."""
    source = pipeline.document.source
    what = "file" if source.files else "row" if source.table else "item"
    where = source.files or source.table or "source.items"
    return f"Nothing to do: no {what} found in {where}."


async def read_items(
    pipeline: Pipeline, bucket: Place | None, limit: int | None = None
) -> list[Item]:
    """Read the pipeline's items, at most `limit`, always in the same order.

    Names are unique, and do not depend on the limit. A glob that matches nothing gives no items,
    nor does a table without rows; a file named outright that is not there raises `InputInvalid`,
    as does every row that cannot be read. Without a bucket, what lies in object storage
    (`stored_source`) is not looked at and gives no items.
    """
    source = pipeline.document.source
    if pipeline.items is not None:
        return list(pipeline.items)
    if bucket is None and stored_source(pipeline):
        return []
    if source.files is not None:
        where = pipeline.yaml.where(("source", "files"))
        if bucket and source.files.startswith(_S3):
            paths = await _stored_files(source.files, where, bucket)
        else:
            paths = await asyncio.to_thread(_local_files, source.files, where)
        items = file_items(paths)
    elif source.table is not None:
        where = pipeline.yaml.where(("source", "table"))
        items = row_items(await _rows(source.table, where, bucket))
    else:
        items = row_items(source.items or [])
    return items[:limit]


def _local_files(pattern: str, where: str) -> list[str]:
    """List the files of this machine that a pattern matches, in their natural order.

    What names one file outright has to be there; else `InputInvalid` says so at `where`.
    """
    if Path(pattern).is_file():
        return [Path(pattern).as_posix()]
    if _is_plain(pattern):
        raise InputInvalid([_no_such_file(pattern, where)])
    matches = (
        Path(match)
        for each in alternatives(pattern)
        for match in glob.glob(each, recursive=True)  # noqa: PTH207 — Path.glob takes no absolute pattern and drops a leading ./
    )
    return sorted({one.as_posix() for one in matches if one.is_file()}, key=natural)


async def _stored_files(pattern: str, where: str, bucket: Place) -> list[str]:
    """List the objects that an `s3://` pattern matches; folders' own markers are none."""
    name, _, key = pattern.removeprefix(_S3).partition("/")
    if not name or not _is_plain(name):
        hint = "write s3://bucket/folder/*.jpg"
        raise InputInvalid([Problem(where, f"{pattern} should name one bucket", hint)])
    if not key:
        raise InputInvalid([_is_folder(pattern, where)])
    patterns = alternatives(pattern)
    # What all names begin with that fit.
    prefixes = {"".join(takewhile(lambda sign: not glob.has_magic(sign), one)) for one in patterns}
    found: set[str] = set()
    for prefix in sorted(prefixes):
        async with aclosing(bucket.files_in(prefix)) as listed:
            async for one in listed:
                uri = one.uri
                if uri == pattern:
                    return [uri]
                if not uri.endswith("/") and any(fits(each, uri) for each in patterns):
                    found.add(uri)
    if _is_plain(pattern):
        raise InputInvalid([await _no_such_object(pattern, where, bucket)])
    return await asyncio.to_thread(sorted, found, key=natural)


async def _rows(table: str, where: str, bucket: Place | None) -> list[dict[str, Any]]:
    if bucket is None or not table.startswith(_S3):
        if not await asyncio.to_thread(Path(table).is_file):
            raise InputInvalid([_no_such_file(table, where)])
        return await asyncio.to_thread(read_table, Path(table), table, where)
    with tempfile.TemporaryDirectory(prefix="comfyline-table-") as folder:
        copy = Path(folder) / "table"
        try:
            await bucket.get(table, copy)
        except FileNotFoundError:
            raise InputInvalid([await _no_such_object(table, where, bucket)]) from None
        return await asyncio.to_thread(read_table, copy, table, where)


def alternatives(pattern: str) -> list[str]:
    """Spell `*.{jpg,png}` out as `*.jpg` and `*.png`, which Python's glob does not know."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    choices = match[1].split(",")
    return [spelt for choice in choices for spelt in alternatives(head + choice + tail)]


def _is_plain(pattern: str) -> bool:
    """Tell whether a pattern names one file outright."""
    return not _BRACES.search(pattern) and not glob.has_magic(pattern)


def fits(pattern: str, name: str) -> bool:
    """Tell whether an object's name fits a pattern without braces, as a file's would.

    `*` stays within a folder, `**` goes through all below; neither finds what begins with a dot.
    """
    return _fits(pattern.split("/"), name.split("/"))


def _fits(pattern: Sequence[str], name: Sequence[str]) -> bool:
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == _RECURSIVE:
        shown = len(list(takewhile(lambda part: not part.startswith("."), name)))
        if not rest:
            return 0 < len(name) == shown
        return any(_fits(rest, name[skipped:]) for skipped in range(shown + 1))
    if not name or (name[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(name[0], first) and _fits(rest, name[1:])


def natural(name: str) -> tuple[list[Any], str]:
    """Order `photo-2` before `photo-10`; the name itself settles every tie."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], name


def _no_such_file(pattern: str, where: str) -> Problem:
    if Path(pattern).is_dir():
        return _is_folder(pattern, where)
    return Problem(where, f"no such file: {pattern}", nearest_file(Path(pattern)))


async def _no_such_object(address: str, where: str, bucket: Place) -> Problem:
    """Say that an object is not there, and which one is."""
    folder, _, name = address.rstrip("/").rpartition("/")
    beside: dict[str, None] = {}
    async with aclosing(bucket.files_in(f"{folder}/")) as listed:
        async for one in listed:
            first, below, _ = one.uri.removeprefix(f"{folder}/").partition("/")
            if below and first == name:
                return _is_folder(address, where)
            if not below:
                beside[first] = None
            if len(beside) == _BESIDE:
                break
    return Problem(where, f"no such file: {address}", did_you_mean(name, list(beside)))


def _is_folder(pattern: str, where: str) -> Problem:
    return Problem(where, f"{pattern} is a folder", f"write {pattern.rstrip('/')}/*")


def file_items(paths: Sequence[str]) -> list[Item]:
    """Name each file by its stem, and by more of its path where names would be the same."""
    names = [_stem(path) for path in paths]
    longer = {path: iter((_without_ending(path), path.removeprefix(_S3))) for path in paths}
    while doubles := {name for name, times in Counter(names).items() if times > 1}:
        names = [
            next(longer[path], name) if name in doubles else name
            for path, name in zip(paths, names, strict=True)
        ]
    return [Item(name, _file_fields(path)) for path, name in zip(paths, names, strict=True)]


def row_items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Name each row by its name, id or sku, else by its number, which also tells equals apart."""
    names = [_row_name(row, index) for index, row in enumerate(rows)]
    times = Counter(names)
    taken: set[str] = set()
    items = []
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        told = name if times[name] == 1 else f"{name}-{index}"
        while told in taken or (told != name and told in times):
            told += f"-{index}"
        taken.add(told)
        items.append(Item(told, row))
    return items


def _file_fields(path: str) -> dict[str, str]:
    folder, _, name = path.rpartition("/")
    ending = PurePosixPath(name).suffix[1:]
    # A file of the root lies in `/`, one of the working directory in `.`.
    folder = folder or ("/" if path.startswith("/") else ".")
    return dict(zip(FILE_FIELDS, (path, name, _stem(path), ending, folder), strict=True))


def _stem(path: str) -> str:
    return PurePosixPath(path.rpartition("/")[2]).stem


def _without_ending(path: str) -> str:
    ending = PurePosixPath(path.rpartition("/")[2]).suffix
    return path.removesuffix(ending).removeprefix(_S3)


def _row_name(row: Mapping[str, Any], index: int) -> str:
    values = (row.get(field) for field in _NAME_FIELDS)
    named = (
        without_secrets(str(value)).strip() for value in values if isinstance(value, str | int)
    )
    return next((name for name in named if name), str(index))
