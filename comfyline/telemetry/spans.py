"""Where a run's time goes: spans around the run, its jobs, their stages and their HTTP calls.

Which spans a piece of work is in is also what its log lines tell about it. OpenTelemetry is not
imported here: whoever exports traces puts a tracer in force, and without one a span costs nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from comfyline.errors import ComfylineError
from comfyline.redact import without_secrets

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

Fields = Mapping[str, str | int | float | None]
"""By the names of span attributes; what is None is left out."""

_NOTHING: Mapping[str, str | int | float] = {}
_fields: ContextVar[Mapping[str, str | int | float]] = ContextVar("fields", default=_NOTHING)
_tracer: ContextVar["Tracer | None"] = ContextVar("comfyline_tracer", default=None)


def current_fields() -> Mapping[str, str | int | float]:
    """Return the fields of all spans that the caller is in, the innermost last."""
    return _fields.get()


def is_traced() -> bool:
    """Return whether spans go anywhere."""
    return _tracer.get() is not None


@contextmanager
def traced_by(tracer: "Tracer") -> Iterator[None]:
    """Put a tracer in force for what is started inside the block."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)


@contextmanager
def span(name: str, fields: Fields) -> Iterator[Callable[[Fields], None]]:
    """Open a span for the block; call what it gives to add fields that are known later.

    Of an error that leaves the block, the span keeps the kind and no words.
    """
    mine = {key: value for key, value in fields.items() if value is not None}
    token = _fields.set({**_fields.get(), **mine})
    try:
        if tracer := _tracer.get():
            with _recorded(tracer, name, mine) as add:
                yield add
        else:
            yield _ignore
    finally:
        _fields.reset(token)


@contextmanager
def _recorded(tracer: "Tracer", name: str, fields: Fields) -> Iterator[Callable[[Fields], None]]:
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False
    ) as opened:

        def add(more: Fields) -> None:
            for key, value in more.items():
                if value is not None:
                    shown = without_secrets(value) if isinstance(value, str) else value
                    opened.set_attribute(key, shown)

        add(fields)
        try:
            yield add
        except BaseException as error:
            kind = error.kind if isinstance(error, ComfylineError) else type(error).__name__
            opened.set_status(StatusCode.ERROR, kind)
            add({"error.type": kind})
            raise


def _ignore(_: Fields) -> None:
    pass
