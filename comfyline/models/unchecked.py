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


def explicit_media(value: Any, pointer: Pointer = ()) -> Iterator[tuple[Pointer, str]]:
    """Every value that says of itself that it is media, with where its bytes are."""
    match value:
        case str() if len(value) > 1 and value.startswith(("@", "s3://")):
            yield pointer, value.removeprefix("@")
        case Mapping():
            for name, inner in value.items():
                yield from explicit_media(inner, (*pointer, name))
        case list():
            for index, inner in enumerate(value):
                yield from explicit_media(inner, (*pointer, index))


def unmarked_media(value: Any, pointer: Pointer = ()) -> Iterator[Pointer]:
    """Where another step's output is taken without a mark that makes it a medium."""
    match value:
        case str() if value.startswith(PENDING):
            yield pointer
        case Mapping():
            for name, inner in value.items():
                yield from unmarked_media(inner, (*pointer, name))
        case list():
            for index, inner in enumerate(value):
                yield from unmarked_media(inner, (*pointer, index))
