"""Model schemas on disk: folders of JSON files, the first folder winning.

A file holds one catalogue entry, or a whole answer of the catalogue (`{"models": [entry, …]}`).
"""

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from comfyline.errors import InputInvalid, Problem
from comfyline.files import appearing_whole
from comfyline.models.entry import ModelEntry
from comfyline.yaml.file import did_you_mean

CACHED_MODELS = "models"
"""The folder under the home in which the schemas that RunComfy gave are kept."""
FRESH_SECONDS = 7 * 24 * 60 * 60.0
"""For how long a kept model is taken as it is; after that RunComfy is asked whether it changed."""
Where = Literal["local", "cached", "catalogue"]
# Each part is the name of a folder or a file, which no file system lets be longer than 255.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]{1,200}(/[A-Za-z0-9._-]{1,200}){0,9}", re.ASCII)


def check_model_id(model_id: str) -> str:
    """Return the id; raise `InputInvalid` if it is none, or would lead out of a folder."""
    is_path_trick = any(set(part) <= {"."} for part in model_id.split("/"))
    if not _MODEL_ID.fullmatch(model_id) or is_path_trick:
        message = f"{model_id!r} is not a model id"
        hint = "an id looks like google/nano-banana/pro/edit"
        raise InputInvalid([Problem("model", message, hint)])
    return model_id


def model_path(directory: Path, model_id: str) -> Path:
    """Return where a model's own file belongs in a folder: `google/nano-banana/pro/edit.json`."""
    return directory.joinpath(*f"{check_model_id(model_id)}.json".split("/"))


def find_model(model_id: str, directories: Iterable[Path]) -> ModelEntry | None:
    """Find a model by its id; None if no folder has it.

    Raises InputInvalid for something that is no model id, and for a broken file. It reads files
    each time: who asks for many jobs keeps the answer.
    """
    for directory in directories:
        own = model_path(directory, model_id)
        paths = [own] if own.is_file() else _json_files(directory)
        for entry in (entry for path in paths for entry in read_models(path)):
            if entry.model_id == model_id:
                return entry
    return None


def list_models(directories: Iterable[Path]) -> list[ModelEntry]:
    """List every model once, ordered by id; raise `InputInvalid` naming all broken files."""
    found: dict[str, ModelEntry] = {}
    problems: list[Problem] = []
    for path in (path for directory in directories for path in _json_files(directory)):
        try:
            for entry in read_models(path):
                found.setdefault(entry.model_id, entry)
        except InputInvalid as error:
            problems.extend(error.problems)
    if problems:
        raise InputInvalid(problems)
    return [found[model_id] for model_id in sorted(found)]


def store_model(directory: Path, model_id: str, published: Mapping[str, Any]) -> Path:
    """Write an entry as RunComfy published it, for people to read; the file appears whole.

    Gives the file's path. Raises InputInvalid for what is no model id, and OSError.
    """
    target = model_path(directory, model_id)
    try:
        written = json.dumps(published, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Half a character is JSON when it is escaped, and no UTF-8.
        written = json.dumps(published, indent=2).encode()
    with appearing_whole(target) as part:
        part.write_bytes(written + b"\n")
    return target


def read_models(path: Path) -> Iterator[ModelEntry]:
    """Yield the models in one file; raise `InputInvalid` for a broken one."""
    content = read_json(path)
    listed = content.get("models") if isinstance(content, dict) else None
    for entry in listed if isinstance(listed, list) else [content]:
        try:
            yield ModelEntry.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the entry"
            message = f"not a model's catalogue entry: {field}: {first['msg']}"
            raise InputInvalid([Problem(str(path), message)]) from None


def read_json(path: Path) -> Any:
    """Read a JSON file; raise `InputInvalid` for a broken one."""
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise InputInvalid([Problem(place, f"not valid JSON: {error.msg}")]) from None
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise InputInvalid([Problem(str(path), message)]) from None
    except (UnicodeDecodeError, RecursionError, ValueError):
        raise InputInvalid([Problem(str(path), "the file is not JSON text")]) from None


def _json_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.json") if path.is_file())


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A cached model; `is_fresh` is whether it is young enough not to be asked for again."""

    entry: ModelEntry
    is_fresh: bool


class ModelCache:
    """One folder with a file a model. Blocking: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, model_id: str) -> CachedModel | None:
        """Find a cached model; None if there is none. Raises `InputInvalid` for what is no id."""
        path = model_path(self._directory, model_id)
        with suppress(InputInvalid, OSError):
            for entry in read_models(path) if path.is_file() else ():
                # A clock that was set back makes a file from the future, which is of no known age.
                age = time.time() - path.stat().st_mtime
                if entry.model_id == model_id and entry.input_schema:
                    return CachedModel(entry, is_fresh=0 <= age < FRESH_SECONDS)
        return None

    def keep(self, model_id: str, published: Mapping[str, Any]) -> None:
        """Keep an entry as it was published; a full disk keeps nothing, and stops nothing."""
        with suppress(OSError):
            store_model(self._directory, model_id, published)

    def list(self) -> list[ModelEntry]:
        """List every cached model, ordered by id."""
        paths = sorted(self._directory.rglob("*.json")) if self._directory.is_dir() else []
        ids = (path.relative_to(self._directory).as_posix()[: -len(".json")] for path in paths)
        found = []
        for model_id in ids:
            with suppress(InputInvalid):
                kept = self.find(model_id)
                found += [kept.entry] if kept else []
        return found


class OfflineModels:
    """`directories` hold the project's own schemas and win over those that were `kept`."""

    def __init__(self, directories: Sequence[Path], kept: ModelCache) -> None:
        self._directories = tuple(directories)
        self._kept = kept
        self._found: dict[str, ModelEntry | InputInvalid] = {}
        self._names: list[str] | None = None

    async def entry(self, model_id: str) -> ModelEntry:
        """Find a model's schema. Raises `InputInvalid` if there is none here, or a broken one."""
        if model_id not in self._found:
            self._found[model_id] = await asyncio.to_thread(self._find, model_id)
        found = self._found[model_id]
        if isinstance(found, InputInvalid):
            raise found
        return found

    def _find(self, model_id: str) -> ModelEntry | InputInvalid:
        try:
            if entry := find_model(model_id, self._directories):
                return entry
            kept = self._kept.find(model_id)
        except InputInvalid as error:
            return InputInvalid(_of_model(problem) for problem in error.problems)
        return kept.entry if kept else self._unknown(model_id)

    def _unknown(self, model_id: str) -> InputInvalid:
        if self._names is None:
            self._names = [entry.model_id for entry in self._kept.list()]
            with suppress(InputInvalid):
                self._names += [entry.model_id for entry in list_models(self._directories)]
        hint = f"`comfyline models pull {model_id}` takes it from RunComfy"
        if near := did_you_mean(model_id, self._names):
            hint = f"{near} Otherwise {hint}"
        message = f"{model_id} is not in configs/models/"
        return InputInvalid([Problem("model", message, hint)])


def _of_model(problem: Problem) -> Problem:
    """Name the schema file in a problem, which is told where the model is named."""
    if problem.where == "model":
        return problem
    return Problem("model", f"{problem.where}: {problem.message}", problem.hint)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and where its schema is taken from; the price is today's, or unknown."""

    entry: ModelEntry
    where: Where


def listing(
    local: Iterable[ModelEntry],
    kept: Iterable[ModelEntry],
    live: Iterable[ModelEntry],
    search: str | None = None,
    category: str | None = None,
) -> list[Listed]:
    """List every model once, ordered by id; what is local wins over what is kept.

    `search` is a text in the id, in whatever case; the catalogue has been searched already.
    """
    today = {entry.model_id: entry for entry in live}
    found: dict[str, Listed] = {}
    here: tuple[tuple[Where, Iterable[ModelEntry]], ...] = (("local", local), ("cached", kept))
    for where, entries in here:
        for entry in entries:
            if not _fits(entry, search, category):
                continue
            priced = today.get(entry.model_id)
            # A file's price is that of the day on which it was written.
            shown = entry.priced_like(priced) if priced else entry.without_price()
            found.setdefault(entry.model_id, Listed(shown, where))
    for entry in today.values():
        found.setdefault(entry.model_id, Listed(entry, "catalogue"))
    return [found[model_id] for model_id in sorted(found)]


def _fits(entry: ModelEntry, search: str | None, category: str | None) -> bool:
    is_named = not search or search.lower() in entry.model_id.lower()
    return is_named and (not category or category in entry.categories)
