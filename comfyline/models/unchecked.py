"""A model whose schema is nowhere to be had, asked for all the same: nothing of it is checked.

Without a schema no field says that it is media, so the value has to: `@photo.jpg`, `@s3://…` and
`s3://…` are media of the kind that their content shows. All else goes out as it is written.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from comfyline.job import PENDING, Pointer
from comfyline.models.entry import ModelEntry


class UncheckedModel(ModelEntry):
    """Stands for a model of which nothing but its id is known."""


def explicit_media(inputs: Any) -> Iterator[tuple[Pointer, str]]:
    """Every value that says of itself that it is media, with where its bytes are."""
    for pointer, text in _texts(inputs, ()):
        if len(text) > 1 and text.startswith(("@", "s3://")):
            yield pointer, text.removeprefix("@")


def unmarked_media(inputs: Any) -> Iterator[Pointer]:
    """Where another step's output is taken without a mark that makes it a medium."""
    return (pointer for pointer, text in _texts(inputs, ()) if text.startswith(PENDING))


def _texts(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    match value:
        case str():
            yield pointer, value
        case Mapping():
            for name, inner in value.items():
                yield from _texts(inner, (*pointer, name))
        case list():
            for index, inner in enumerate(value):
                yield from _texts(inner, (*pointer, index))
