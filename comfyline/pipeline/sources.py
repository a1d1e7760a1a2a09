"""Where items come from: files by a glob, the rows of a table, or the pipeline itself."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from comfyline.errors import InputInvalid
from comfyline.job import Item
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.files import local_files, no_such_object, stored_files
from comfyline.pipeline.references import FILE_FIELDS
from comfyline.pipeline.tables import read_table
from comfyline.redact import without_secrets

_NAME_FIELDS = ("name", "id", "sku")
_S3 = "s3://"


class Reader(Protocol):
    """Object storage, as far as sources need it."""

    def files_in(self, prefix: str) -> AsyncGenerator[str, None]:
        """The addresses of all objects that begin with a prefix, in any order."""

    async def fetch(self, uri: str, target: Path) -> None:
        """Copies an object to local disk. Raises `FileNotFoundError`."""


def stored_source(pipeline: Pipeline) -> str | None:
    """The address of a source that lies in object storage; None for one that needs no storage."""
    source = pipeline.document.source
    written = source.files or source.table or ""
    return written if written.startswith(_S3) else None


def nothing_to_do(pipeline: Pipeline) -> str:
    """The sentence for a source that gives no items, which is no mistake."""
    source = pipeline.document.source
    if source.files is not None:
        return f"Nothing to do: no file is taken from {source.files}."
    if source.table is not None:
        return f"Nothing to do: no row is taken from {source.table}."
    return "Nothing to do: no item is taken from source.items."


async def read_items(
    pipeline: Pipeline, reader: Reader | None, limit: int | None = None
) -> list[Item]:
    """Gives the pipeline's items, at most `limit`, always in the same order.

    Names are unique, and do not depend on the limit. A glob that matches nothing gives no items,
    nor does a table without rows; a file named outright that is not there raises `InputInvalid`,
    as does every row that cannot be read. Without a reader, what lies in object storage
    (`stored_source`) is not looked at and gives no items.
    """
    source = pipeline.document.source
    if reader is None and stored_source(pipeline):
        return []
    if source.files is not None:
        where = pipeline.yaml.where(("source", "files"))
        items = file_items(await _matching(source.files, where, reader))
    elif source.table is not None:
        where = pipeline.yaml.where(("source", "table"))
        items = row_items(await _rows(source.table, where, reader))
    else:
        items = row_items(source.items or [])
    return items[:limit]


async def _matching(pattern: str, where: str, reader: Reader | None) -> list[str]:
    if reader is None or not pattern.startswith(_S3):
        return await asyncio.to_thread(local_files, pattern, where)
    return await stored_files(pattern, where, reader.files_in)


async def _rows(table: str, where: str, reader: Reader | None) -> list[dict[str, Any]]:
    if reader is None or not table.startswith(_S3):
        [path] = await asyncio.to_thread(local_files, table, where, is_pattern=False)
        return await asyncio.to_thread(read_table, Path(path), table, where)
    with tempfile.TemporaryDirectory(prefix="comfyline-table-") as folder:
        copy = Path(folder) / "table"
        try:
            await reader.fetch(table, copy)
        except FileNotFoundError:
            problem = await no_such_object(table, where, reader.files_in)
            raise InputInvalid([problem]) from None
        return await asyncio.to_thread(read_table, copy, table, where)


def file_items(paths: Sequence[str]) -> list[Item]:
    """Names each file by its stem, and by more of its path where names would be the same."""
    names = [_stem(path) for path in paths]
    longer = {path: iter((_without_ending(path), path.removeprefix(_S3))) for path in paths}
    while doubles := {name for name, times in Counter(names).items() if times > 1}:
        names = [
            next(longer[path], name) if name in doubles else name
            for path, name in zip(paths, names, strict=True)
        ]
    return [Item(name, _file_fields(path)) for path, name in zip(paths, names, strict=True)]


def row_items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Names each row by its name, id or sku, else by its number, which also tells equals apart."""
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
