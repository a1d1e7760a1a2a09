"""Flow parameters, which Prefect stores in clear and shows to whoever reaches its page.

A presigned address among them is a password while it lives. The command line runs its flows in its
own process, so it hands the values over beside Prefect, which gets them without what is secret; and
a pipeline that it has read is not read again.

Nothing here imports Prefect: the command line needs it before Prefect may be imported, which reads
its environment at that moment.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from comfyline.errors import InputInvalid, Problem
from comfyline.pipeline.document import Pipeline, load_pipeline
from comfyline.redact import without_secrets

V = TypeVar("V")

_LEFT_OUT = "[the rest is kept out of Prefect]"

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
    if missing := next(_incomplete(stored), None):
        address = missing.replace(_LEFT_OUT, "").strip()
        message = f"{address} had a signature or a password, which is not stored in Prefect"
        raise InputInvalid([Problem(name, message, "give the complete address again")])
    return stored


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
