"""Which task runs Prefect draws an edge between: by the value handed over, and by nothing in it.

Prefect finds a task's parents by looking for known objects in its parameters, down to the bottom
and by `id`. Shared parts, such as an empty tuple, would tie jobs together that have nothing to do
with one another; values that travel therefore have a weakref slot and are wrapped here.
"""

from typing import TypeVar, cast

from prefect.utilities.annotations import opaque

T = TypeVar("T")


def linked(value: T) -> T:
    """The same value for the task; for Prefect the one thing by which its parent is known."""
    return cast("T", opaque(value))
