"""Where items come from: files by a glob, or the items written in the pipeline itself."""

import glob
import re
from collections import Counter
from pathlib import Path
from typing import Any

from comfyline.errors import InputInvalid, Problem
from comfyline.job import Item
from comfyline.pipeline.document import Pipeline
from comfyline.pipeline.template_errors import FILE_FIELDS
from comfyline.yamlfile import did_you_mean

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_NAME_FIELDS = ("name", "id", "sku")


def read_items(pipeline: Pipeline, limit: int | None = None) -> list[Item]:
    """Gives the pipeline's items, at most `limit`, always in the same order.

    Names are unique, and do not depend on the limit. A glob that matches nothing gives no items;
    a file named outright that is not there raises InputInvalid.
    """
    source = pipeline.document.source
    if source.files is not None:
        items = _file_items(_matching(source.files, pipeline))
    else:
        items = _written_items(source.items or [])
    return items[:limit]


def _matching(pattern: str, pipeline: Pipeline) -> list[Path]:
    if Path(pattern).is_file():
        return [Path(pattern)]
    patterns = _alternatives(pattern)
    if patterns == [pattern] and not glob.has_magic(pattern):
        where = pipeline.yaml.where(("source", "files"))
        raise InputInvalid([_not_a_file(pattern, where)])
    matches = (match for each in patterns for match in glob.glob(each, recursive=True))  # noqa: PTH207 — Path.glob takes no absolute pattern and drops a leading ./
    return sorted({Path(match) for match in matches if Path(match).is_file()}, key=_natural)


def _alternatives(pattern: str) -> list[str]:
    """Spells `*.{jpg,png}` out as `*.jpg` and `*.png`, which Python's glob does not know."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    choices = match[1].split(",")
    return [spelt for choice in choices for spelt in _alternatives(head + choice + tail)]


def _not_a_file(pattern: str, where: str) -> Problem:
    path = Path(pattern)
    if path.is_dir():
        return Problem(where, f"{pattern} is a folder", f"write {pattern.rstrip('/')}/*")
    folder = path.parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    hint = did_you_mean(path.name, names) if folder.is_dir() else f"there is no folder {folder}"
    return Problem(where, f"no such file: {pattern}", hint)


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Orders `photo-2` before `photo-10`; the path itself settles every tie."""
    parts = re.split(r"([0-9]+)", path.as_posix().casefold())
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts], path.as_posix()


def _file_items(paths: list[Path]) -> list[Item]:
    """Names each file by its stem, and by more of its path where stems are the same."""
    stems = Counter(path.stem for path in paths)
    longer = Counter(path.with_suffix("").as_posix() for path in paths)
    items = []
    for path in paths:
        name = path.stem
        if stems[name] > 1:
            name = path.with_suffix("").as_posix()
        if stems[path.stem] > 1 and longer[name] > 1:
            name = path.as_posix()
        items.append(Item(name, _file_fields(path)))
    return items


def _file_fields(path: Path) -> dict[str, str]:
    values = (path.as_posix(), path.name, path.stem, path.suffix[1:], path.parent.as_posix())
    return dict(zip(FILE_FIELDS, values, strict=True))


def _written_items(rows: list[dict[str, Any]]) -> list[Item]:
    names = [_row_name(row, index) for index, row in enumerate(rows)]
    times = Counter(names)
    return [
        Item(name if times[name] == 1 else f"{name}-{index}", row)
        for index, (name, row) in enumerate(zip(names, rows, strict=True))
    ]


def _row_name(row: dict[str, Any], index: int) -> str:
    values = (row.get(field) for field in _NAME_FIELDS)
    named = (str(value).strip() for value in values if isinstance(value, str | int))
    return next((name for name in named if name), str(index))
