"""Where the fields of a step were written, for messages about a job that was made from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfyline.job import Pointer
from comfyline.yaml.file import LocatedYaml

_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)", re.ASCII)
_OF_STEP = {"model", "input", "variant", "when", "for_each", "collect"}


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """The place of each field of one step: `office.yaml:14:9: steps.edit.input.aspect_ratio`."""

    located: LocatedYaml
    step: str

    def where(self, field: str) -> str:
        """The place and the path of a field, as people look for it.

        `field` is one of the model's input, such as `image_urls[0]`; or `variant`, `output.to` and
        the like, unless the step's input has a field of that name.
        """
        pointer = self._pointer(field)
        return f"{self.located.where(pointer)}: {document_path(pointer)}"

    def _pointer(self, field: str) -> Pointer:
        at: Pointer = ("steps", self.step)
        parts: Pointer = tuple(
            int(index) if index else name for index, name in _PART.findall(field)
        )
        inputs = _below(self.located.data, (*at, "input"))
        first = parts[0] if parts else ""
        if isinstance(inputs, Mapping) and first in inputs:
            return (*at, "input", *parts)
        if first == "output":
            own = (*at, *parts)
            return own if own in self.located.positions else parts
        return (*at, *parts) if first in _OF_STEP else (*at, "input", *parts)


def document_path(pointer: Pointer) -> str:
    """A place in a document as people write it: `steps.edit.input.image_urls[0]`."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in pointer)
    return "".join(parts).removeprefix(".")


def _below(value: Any, pointer: Pointer) -> Any:
    for key in pointer:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
