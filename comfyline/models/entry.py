"""One model as the catalogue describes it, and the JSON files in which such entries lie.

A file holds one entry, or a whole answer of the catalogue (`{"models": [entry, …]}`). Of several
folders the first one wins; keys that are not known here are passed over.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import jsonschema_rs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from comfyline.errors import InputInvalid, Problem
from comfyline.files import appearing_whole
from comfyline.job import MediaKind
from comfyline.models.dialect import (
    compile_schema,
    plain_fields,
    to_json_schema,
)


def _price(value: Any) -> float | None:
    """Read a price; one that makes no sense is unknown, and never free."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        price = float(value)
    except (ValueError, OverflowError):
        return None
    return price if math.isfinite(price) and price >= 0 else None


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else ()
    return tuple(entry for entry in listed if isinstance(entry, str))


_Price = Annotated[float | None, BeforeValidator(_price)]
_Text = Annotated[
    str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)
]
_Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
# A catalogue that is asked without schemas gives null.
_Schema = Annotated[
    dict[str, Any], BeforeValidator(lambda value: value if isinstance(value, dict) else {})
]
_PRICE = ("base_price_usd", "price_unit", "pricing_note")


class ModelEntry(BaseModel):
    """A catalogue entry. `input_schema` is in RunComfy's dialect, as `dialect` reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1)]
    categories: _Texts = ()
    input_schema: _Schema = {}
    base_price_usd: _Price = None
    price_unit: _Text = None
    pricing_note: _Text = None

    def priced_like(self, other: "ModelEntry") -> Self:
        """Return the same model with another entry's price."""
        price = {name: getattr(other, name) for name in _PRICE}
        return self.model_copy(update=price)

    def without_price(self) -> Self:
        """Return the same model with an unknown price."""
        return self.model_copy(update=dict.fromkeys(_PRICE))

    @cached_property
    def plain_schema(self) -> dict[str, Any]:
        """The input schema as plain JSON Schema, translated once for however many jobs."""
        return to_json_schema(self.input_schema)

    @cached_property
    def validator(self) -> jsonschema_rs.Draft202012Validator:
        """What holds inputs against `plain_schema`; a schema that is none accepts everything."""
        try:
            return compile_schema(self.plain_schema)
        except ValueError:
            return compile_schema({})

    @cached_property
    def plain_fields(self) -> frozenset[str]:
        """The fields of the input that never hold media."""
        return plain_fields(self.input_schema)


class UncheckedModel(ModelEntry):
    """A model of which nothing but its id is known: its inputs are submitted unchecked."""


_KINDS: Mapping[str, MediaKind] = {
    "image": "image",
    "video": "video",
    "audio": "audio",
    "music": "audio",
    "speech": "audio",
}


def kind_made(entry: ModelEntry) -> MediaKind | None:
    """Return the kind of a model's outputs; None if no category says it, or two disagree.

    A category is a text such as `image-to-video`.
    """
    parts = (category.lower().rpartition("-to-") for category in entry.categories)
    kinds = {_KINDS.get(made) for _, to, made in parts if to}
    return kinds.pop() if len(kinds) == 1 else None


# Each part is the name of a folder or a file, which no file system lets be longer than 255.
_MODEL_ID = re.compile(r"[A-Za-z0-9._-]{1,200}(/[A-Za-z0-9._-]{1,200}){0,9}", re.ASCII)


def check_model_id(model_id: str) -> str:
    """Return the id; raise `InputInvalid` if it is none, or would lead out of a folder."""
    is_path_trick = any(set(part) <= {"."} for part in model_id.split("/"))
    if not _MODEL_ID.fullmatch(model_id) or is_path_trick:
        message = f"{model_id!r} is not a model id"
        hint = "a model id looks like google/nano-banana/pro/edit"
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
