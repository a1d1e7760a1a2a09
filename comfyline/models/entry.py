"""One model as the catalogue describes it; keys that are not known here are passed over."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

import jsonschema_rs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from comfyline.job import MediaKind
from comfyline.models.dialect import (
    compile_schema,
    plain_fields,
    to_json_schema,
    unchecked_patterns,
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


def _schema(value: Any) -> dict[str, Any] | None:
    """Read a schema; a catalogue asked without schemas gives null."""
    return value if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else ()
    return tuple(entry for entry in listed if isinstance(entry, str))


_PRICE = ("base_price_usd", "price_unit", "pricing_note")


class ModelEntry(BaseModel):
    """A catalogue entry. `input_schema` is in RunComfy's dialect, as `dialect` reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1)]
    kind: Annotated[str, BeforeValidator(lambda value: _text(value) or "model")] = "model"
    categories: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    input_schema: Annotated[
        dict[str, Any], BeforeValidator(lambda value: _schema(value) or {})
    ] = {}
    output_schema: Annotated[dict[str, Any] | None, BeforeValidator(_schema)] = None
    base_price_usd: Annotated[float | None, BeforeValidator(_price)] = None
    price_unit: Annotated[str | None, BeforeValidator(_text)] = None
    pricing_note: Annotated[str | None, BeforeValidator(_text)] = None

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
    def unchecked_patterns(self) -> tuple[str, ...]:
        """The patterns of the input that cannot be checked here."""
        return unchecked_patterns(self.input_schema)

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
