"""What every part of the pipeline format shares: strictness, and its kinds of value."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


class Section(BaseModel):
    """A mapping in which every key is known and no value is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _slug(name: str) -> str:
    if not _SLUG.fullmatch(name):
        raise ValueError(f"should be letters, digits, `-`, `_` and `.` only, not {name!r}")
    return name


def _identifier(name: str) -> str:
    # It is written behind a dot in templates: {{ matrix.aspect_ratio }}.
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError("should be letters, digits and `_` only, and not begin with a digit")
    return name


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("should not be empty")
    return text


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError("should hold texts, numbers, true or false")  # noqa: TRY004 — for pydantic
    return value


Slug = Annotated[
    str, AfterValidator(_slug), Field(json_schema_extra={"pattern": f"^{_SLUG.pattern}$"})
]
Filled = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
Identifier = Annotated[str, AfterValidator(_identifier)]
Scalar = Annotated[Any, BeforeValidator(_scalar)]
