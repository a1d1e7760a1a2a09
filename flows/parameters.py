"""Flow parameters, which Prefect stores in clear and shows to whoever reaches its page.

The types give the form of the page its titles, its bounds and its choices; the descriptions are
those of a flow's docstring. Choices are what there is when a flow is deployed: a form offers them
and takes anything else as well.

A presigned address among them is a password while it lives. The command line runs its flows in its
own process, so it hands the values over beside Prefect, which gets them without what is secret; and
a pipeline that it has read is not read again.

Nothing here imports Prefect: the command line needs it before Prefect may be imported, which reads
its environment at that moment.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from comfyline.config.profile import model_directories, profile_names
from comfyline.errors import InputInvalid, Problem
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.redact import without_secrets

V = TypeVar("V")

# Prefect's server looks at no `format`. This lets through no day but 29 February.
_DAY = (
    r"^\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|[12]\d))$"
)

_LEFT_OUT = "[the rest is kept out of Prefect]"


def _title(title: str) -> FieldInfo:
    # Prefect gives each parameter its name for a title, whatever `Field(title=…)` says.
    info: FieldInfo = Field(json_schema_extra={"title": title})
    return info


@dataclass(frozen=True, slots=True)
class _Tabs:
    """Name the kinds of a value among which the form lets choose; the first may be a list."""

    first: str
    second: str
    listed: Callable[[], Sequence[str]] | None = None

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core)
        if self.listed:
            found = self.listed()
            if not found:
                return schema
            schema = {"anyOf": [schema | {"enum": [*found]}, schema]}
        names = (self.first, self.second)
        kinds = zip(schema["anyOf"], names, strict=True)
        return {"anyOf": [kind | {"title": name} for kind, name in kinds]}


def _pipelines() -> Sequence[str]:
    return sorted(map(str, Path("configs/pipelines").glob("*.y*ml")))


def _models() -> Sequence[str]:
    files = ((folder, file) for folder in model_directories() for file in folder.rglob("*.json"))
    return sorted({file.relative_to(folder).with_suffix("").as_posix() for folder, file in files})


PipelinePath = Annotated[
    str, _Tabs("In configs/pipelines", "Another file", _pipelines), _title("Pipeline")
]
ModelId = Annotated[
    str, _Tabs("In configs/models", "Another of the catalogue", _models), _title("Model")
]
Profile = Annotated[
    str, _Tabs("In configs/profiles", "Another file", profile_names), _title("Profile")
]
Inputs = Annotated[dict[str, Any], _title("Inputs of the model")]
Folder = Annotated[str, Field(min_length=1), _title("Folder for the outputs")]
PageFolder = Annotated[str, Field(min_length=1), _title("Folder for the page")]
Since = Annotated[str, _title("From when on")]
GroupedBy = Annotated[
    str, _Tabs("One of", "A label", lambda: ("pipeline", "model", "day")), _title("Summed up by")
]
Date = Annotated[
    Annotated[dt.date, WithJsonSchema({"type": "string", "format": "date", "pattern": _DAY})]
    | None,
    _Tabs("A day", "Today"),
    _title("Date"),
]
Overrides = Annotated[list[str] | None, _Tabs("Some", "None"), _title("Overrides of the YAML")]
Limit = Annotated[
    Annotated[int, Field(ge=1)] | None, _Tabs("At most", "All"), _title("Number of items")
]
Refresh = Annotated[bool, _title("Make it again")]
MaxCost = Annotated[
    Annotated[float, Field(ge=0)] | None, _Tabs("At most", "No other limit"), _title("US dollars")
]
AllowUnknownCost = Annotated[bool, _title("Submit what has no known price")]
Verify = Annotated[bool, _title("Read every stored byte again")]
Labels = Annotated[dict[str, str] | None, _Tabs("Some", "None"), _title("Labels")]
WindowHours = Annotated[float, Field(gt=0), _title("Hours until a schedule counts as missed")]
Unchecked = Annotated[bool, _title("Submit to models without a schema")]
Shards = Annotated[
    Annotated[int, Field(ge=1)] | None, _Tabs("So many", "By limits.shard"), _title("Shards")
]
OneShard = Annotated[str | None, _Tabs("A part", "All of it"), _title("Shard (set by the run)")]
Content = Annotated[
    str | None, _Tabs("What the run has read", "Anything"), _title("Content (set by the run)")
]
OfRun = Annotated[str | None, _Tabs("A run", "None"), _title("Part of run (set by the run)")]

_given: ContextVar[Mapping[str, Any] | None] = ContextVar("comfyline_parameters", default=None)
_read: ContextVar[Pipeline | None] = ContextVar("comfyline_pipeline", default=None)


@contextmanager
def kept_out_of_prefect(**parameters: Any) -> Iterator[Mapping[str, Any]]:
    """Give the parameters as Prefect may store them; inside the block `as_given` has the others."""
    token = _given.set(parameters)
    try:
        yield {name: _stored(value) for name, value in parameters.items()}
    finally:
        _given.reset(token)


def as_given(name: str, stored: V) -> V:
    """Return a parameter as it was given. `stored` is what Prefect has of it.

    Raises `InputInvalid` for an address whose rest is gone with the process that knew it, as in a
    run that is started again from Prefect's page.
    """
    given = _given.get()
    if given is not None and name in given:
        value: V = given[name]
        return value
    must_be_whole({name: stored}, "give the complete address again")
    return stored


def must_be_whole(
    parameters: Mapping[str, Any],
    hint: str = "workers get parameters from Prefect: let the pipeline read it from a variable "
    "(`env:`), or run it in one process with `--shards 1`",
) -> None:
    """Raise `InputInvalid` for what is stored in Prefect without its secrets, all at once."""
    problems = [
        Problem(
            name,
            f"{missing.replace(_LEFT_OUT, '').strip()} had a signature or a password, which is not "
            "stored in Prefect",
            hint,
        )
        for name, stored in parameters.items()
        for missing in _incomplete(stored)
    ]
    if problems:
        raise InputInvalid(problems)


@contextmanager
def handed_over(pipeline: Pipeline) -> Iterator[None]:
    """Let the flow inside the block go on with a pipeline that this process has read."""
    token = _read.set(pipeline)
    try:
        yield
    finally:
        _read.reset(token)


def read_pipeline(path: str, overrides: list[str]) -> Pipeline:
    """Return the pipeline that was handed over; a worker's run reads the file itself.

    `overrides` are those that Prefect has stored. Raises `InputInvalid` with every mistake.
    """
    return _read.get() or load_pipeline(Path(path), as_given("overrides", overrides))


def _stored(value: Any) -> Any:
    match value:
        case str():
            bare = without_secrets(value)
            return value if bare == value else f"{bare} {_LEFT_OUT}"
        case Mapping():
            return {name: _stored(entry) for name, entry in value.items()}
        case list() | tuple():
            return [_stored(entry) for entry in value]
        case _:
            return value


def _incomplete(value: Any) -> Iterator[str]:
    match value:
        case str() if _LEFT_OUT in value:
            yield value
        case Mapping():
            for entry in value.values():
                yield from _incomplete(entry)
        case list() | tuple():
            for entry in value:
                yield from _incomplete(entry)
