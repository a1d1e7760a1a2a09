"""The pipeline format: what may be written, and the sentences for what may not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from comfyline.duration import Seconds
from comfyline.errors import InputInvalid, Problem
from comfyline.pipeline.template_errors import find_template_errors
from comfyline.yamlfile import LocatedYaml, apply_overrides, load_yaml, validate_document

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


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


def _distinct(values: list[Any]) -> list[Any]:
    # By type too: in Python `1`, `1.0` and `true` are equal.
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError("names a value twice, which would make the same job twice")
    return values


def _glob(pattern: str) -> str:
    if "://" in pattern:
        raise ValueError("should be local files; `s3://` and URLs are not supported yet")
    if "{{" in pattern:
        raise ValueError("should be a plain pattern; templates are not available here")
    if any(ord(character) < ord(" ") for character in pattern):
        raise ValueError("should not hold control characters")
    return pattern


Filled = Annotated[str, AfterValidator(_filled)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Scalar = Annotated[Any, BeforeValidator(_scalar)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Section):
    """The items; exactly one kind of source."""

    not_yet: ClassVar[frozenset[str]] = frozenset({"table"})

    files: Annotated[
        Filled | None,
        AfterValidator(lambda pattern: pattern if pattern is None else _glob(pattern)),
        Field(description="A glob for local files, such as photos/**/*.{jpg,png}."),
    ] = None
    items: Annotated[
        list[dict[str, Any]] | None,
        Field(description="The items themselves: a list of mappings with fields of any name."),
    ] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if (self.files is None) == (self.items is None):
            raise ValueError("should have exactly one of `files` and `items`")
        return self


class Step(_Section):
    """One call of a model for every item and matrix combination."""

    model: Annotated[
        Filled, Field(description="The model's id, such as google/nano-banana/pro/edit.")
    ]
    input: Annotated[
        dict[str, Any], Field(description="The model's input; texts may be templates.")
    ]
    variant: Annotated[
        Any, Field(description="Any value; another value makes another job of the same input.")
    ] = None


class Output(_Section):
    """Where outputs are stored, and under which name."""

    to: Annotated[Filled, Field(description="A local folder or s3://bucket/prefix; a template.")]
    name: Annotated[
        Filled | None,
        Field(description="The file name's template; by default item, matrix values, step, index."),
    ] = None


class Limits(_Section):
    """What a run of this pipeline may take up."""

    in_flight: Annotated[
        int, Field(ge=1, description="How many requests may be at RunComfy at a time.")
    ] = 16
    timeout: Annotated[
        Seconds, Field(description="For one job, from submit to completed: 90s, 30m, 1h30m.")
    ] = 1800.0
    max_cost_usd: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="What a run may cost at most, in US dollars."),
    ] = None
    max_cost_usd_per_day: Annotated[
        float | None,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="What all runs of this pipeline may cost on one day (UTC), in US dollars.",
        ),
    ] = None
    cost_ceilings: Annotated[
        dict[Filled, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(description="By model id: what to set aside for a job whose price is unknown."),
    ] = {}


class PipelineDocument(_Section):
    """A whole pipeline file."""

    name: Annotated[
        str, AfterValidator(_slug), Field(description="What the pipeline is called in the ledger.")
    ]
    source: Annotated[Source, Field(description="What the pipeline works on.")]
    matrix: Annotated[
        dict[Identifier, Annotated[list[Scalar], Field(min_length=1), AfterValidator(_distinct)]],
        Field(description="Lists of values, each combination crossed with every item."),
    ] = {}
    steps: Annotated[
        dict[Identifier, Step],
        Field(min_length=1, description="The model calls by name; for now exactly one."),
    ]
    output: Annotated[Output, Field(description="Where outputs are stored.")]
    limits: Annotated[Limits, Field(description="What a run may take up.")] = Limits()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose document is right; `yaml` knows where each value was written."""

    document: PipelineDocument
    yaml: LocatedYaml
    path: Path

    @property
    def name(self) -> str:
        """What the pipeline calls itself."""
        return self.document.name


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads a pipeline file; raises InputInvalid with every mistake that needs no item to be seen.

    An override that cannot be applied raises UsageError.
    """
    located = apply_overrides(load_yaml(path), overrides)
    problems = _several_steps(located)
    try:
        document = validate_document(located, PipelineDocument)
    except InputInvalid as error:
        raise InputInvalid([*error.problems, *problems, *find_template_errors(located)]) from None
    problems += find_template_errors(located)
    if problems:
        raise InputInvalid(problems)
    return Pipeline(document, located, path)


def _several_steps(located: LocatedYaml) -> list[Problem]:
    steps = located.data.get("steps")
    names = list(steps) if isinstance(steps, dict) else []
    return [
        Problem(
            located.where(("steps", name)),
            f"`{name}` is the second step; several steps are not supported yet",
            "put it into a pipeline of its own",
        )
        for name in names[1:2]
    ]
