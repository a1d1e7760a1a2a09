"""A machine whose clock is wrong: what comfyline takes for the time, and nothing below it.

The signatures of the object storage are left alone, because storage refuses what is signed at a
wrong time, and then nothing would be seen of what comfyline itself does with it.
"""

import sys
from datetime import datetime, timedelta, tzinfo
from typing import Self

_OURS = ("comfyline", "flows", "tasks")
_by = timedelta()


class _Any(type):
    """Takes every moment for one of the class's own, as code that asks for the type expects."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class _Wrong(datetime, metaclass=_Any):
    """The clock of a machine that is wrong by `_by`."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return datetime.now(tz) + _by


def ahead(seconds: float) -> None:
    """Puts this process's clock forward, or back."""
    global _by  # noqa: PLW0603  # one process has one clock
    _by = timedelta(seconds=seconds)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS and getattr(module, "datetime", None) is datetime:
            module.datetime = _Wrong
