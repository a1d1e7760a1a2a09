"""JSON logs: one object a line on stderr, with what each line is about."""

import atexit
import io
import json
import logging
import re
import sys
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from comfyline.redact import for_people, without_secrets
from comfyline.telemetry.spans import current_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = "comfyline_fields"
"""The attribute of a log record that holds more fields for its line."""

_PREFIX = re.compile(r"^(comfyline|prefect)\.")
_FROM_PREFECT = ("flow_run_id", "task_run_id")


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object; no address in it has its query or its password."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        more: Mapping[str, Any] = getattr(record, FIELDS, {})
        about = {name: getattr(record, name) for name in _FROM_PREFECT if hasattr(record, name)}
        about |= for_people(dict(more))
        if record.exc_info:
            about["traceback"] = without_secrets(self.formatException(record.exc_info))
        when = datetime.fromtimestamp(record.created, UTC)
        return _line(when, record.levelname, record.name, record.getMessage(), about)


class JsonLines(io.StringIO):
    """A file for a console: each line that is printed becomes an object on stderr."""

    def write(self, text: str) -> int:
        """Take whole lines, as a console prints them."""
        for line in text.splitlines():
            if line.strip():
                sys.stderr.write(_line(datetime.now(UTC), "INFO", "comfyline.cli", line, {}) + "\n")
        return len(text)

    def flush(self) -> None:
        """Hand the lines over to the operating system."""
        sys.stderr.flush()


def log_as_json(instead_of: type[logging.Handler]) -> None:
    """Let all loggers of the process write JSON on stderr, in the place of another handler."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, JsonFormatter) for handler in root.handlers):
        return
    for handler in [one for one in root.handlers if isinstance(one, instead_of)]:
        root.removeHandler(handler)
    # Written by a thread of its own: whoever reads stderr slowly must not hold the event loop.
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    queued = QueueHandler(lines)
    queued.setFormatter(JsonFormatter())
    root.addHandler(queued)
    listener = QueueListener(lines, logging.StreamHandler())
    listener.start()
    atexit.register(listener.stop)
    logging.getLogger("comfyline").setLevel(logging.INFO)


def _line(when: datetime, level: str, logger: str, text: str, more: "Mapping[str, Any]") -> str:
    told = {
        "time": when.isoformat(timespec="milliseconds"),
        "level": level.lower(),
        "logger": logger,
        "message": without_secrets(text),
    }
    about = {_PREFIX.sub("", name).replace(".", "_"): it for name, it in current_fields().items()}
    told |= {**for_people(about), **more, **told}
    return json.dumps(told, ensure_ascii=False, default=str)
