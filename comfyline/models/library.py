"""Model schemas on disk: folders of JSON files, the first folder winning.

A file holds one catalogue entry, or a whole answer of the catalogue (`{"models": [entry, …]}`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from comfyline.errors import InputInvalid, Problem
from comfyline.files import appearing_whole
from comfyline.models.entry import ModelEntry

# Each part is the name of a folder or a file, which no file system lets be longer than 255.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]{1,200}(/[A-Za-z0-9._-]{1,200}){0,9}", re.ASCII)


def check_model_id(model_id: str) -> str:
    """Gives the id back; raises InputInvalid when it is none, or would lead out of a folder."""
    is_path_trick = any(set(part) <= {"."} for part in model_id.split("/"))
    if not _MODEL_ID.fullmatch(model_id) or is_path_trick:
        message = f"{model_id!r} is not a model id"
        hint = "an id looks like google/nano-banana/pro/edit"
        raise InputInvalid([Problem("model", message, hint)])
    return model_id


def model_path(directory: Path, model_id: str) -> Path:
    """Where a model's own file belongs in a folder: `google/nano-banana/pro/edit.json`."""
    return directory.joinpath(*f"{check_model_id(model_id)}.json".split("/"))


def find_model(model_id: str, directories: Iterable[Path]) -> ModelEntry | None:
    """Finds a model by its id, None when no folder has it.

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
    """Gives every model once, ordered by id; raises InputInvalid naming all broken files."""
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
    """Writes an entry as RunComfy published it, for people to read; the file appears whole.

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
    """The models in one file; raises InputInvalid for a broken one."""
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
    """What a JSON file holds; raises InputInvalid for a broken one."""
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
