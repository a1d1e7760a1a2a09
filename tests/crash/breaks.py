"""Where a process dies: SIGKILL before, after or in the middle of a named function's work.

Nothing in production code knows of this. What is wrapped here still does exactly what it did,
up to the one moment at which nothing is done any more: no `finally`, no flush, no `atexit`.
"""

import asyncio.selector_events
import inspect
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NoReturn

import anyio

How = Literal["before", "after", "commit", "committed", "half", "rename", "wire", "sending"]


@dataclass(frozen=True, slots=True)
class Break:
    """One place to die at.

    `before`, `after` a function, `module:Class.name`; `commit`, `committed`: right before and right
    after the commit of the transaction in which it is called; `half`: when half of a file that a
    module opens is written; `rename`: before a file gets this name; `wire`: at this event of the
    paid POST's connection; `sending`: when half of the body of a PUT to storage is sent. The
    `nth` time, and with `given` only where the last part of one argument is that.
    """

    how: How
    target: str
    nth: int = 1
    given: str | None = None


def break_at(fields: dict[str, Any]) -> None:
    """Prepares the death that a command names by its fields."""
    install(Break(**fields))


def install(place: Break) -> None:
    """Makes this process die there."""
    due = _Countdown(place.nth)
    match place.how:
        case "before" | "after":
            _around(place, due)
        case "commit" | "committed":
            _around_commit(place, due)
        case "half":
            _half_a_file(place.target, due)
        case "rename":
            _before_rename(place.target, due)
        case "wire":
            _on_the_wire(place.target, due)
        case "sending":
            _half_a_put(place.target, due)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class _Countdown:
    def __init__(self, nth: int) -> None:
        self._left = nth

    def __call__(self) -> bool:
        self._left -= 1
        return self._left == 0


def replace(target: str, make: Callable[[Any], Any]) -> None:
    """Puts another function in the place of `module:Class.name`, made from the one there."""
    module, _, path = target.partition(":")
    owner: Any = sys.modules[module]
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, make(getattr(owner, name)))


def _is_meant(place: Break, args: Any, kwargs: Any) -> bool:
    words = [str(one).rsplit("/", 1)[-1] for one in (*args, *kwargs.values())]
    return place.given is None or place.given in words


def _around(place: Break, due: _Countdown) -> None:
    def make(function: Any) -> Any:
        @wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            now = _is_meant(place, args, kwargs) and due()
            if now and place.how == "before":
                die()
            result = function(*args, **kwargs)
            if now:
                die()
            return result

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            now = _is_meant(place, args, kwargs) and due()
            if now and place.how == "before":
                die()
            result = await function(*args, **kwargs)
            if now:
                die()
            return result

        return awaited if inspect.iscoroutinefunction(function) else plain

    replace(place.target, make)


def _around_commit(place: Break, due: _Countdown) -> None:
    from sqlalchemy import Engine, event

    armed = False

    def make(function: Any) -> Any:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal armed
            if _is_meant(place, args, kwargs) and due():
                armed = True
            return function(*args, **kwargs)

        return called

    def at_commit(_: Any) -> None:
        if armed:
            die()

    def around_transaction(function: Any) -> Any:
        def done(*args: Any) -> Any:
            result = function(*args)
            if armed:
                die()
            return result

        return done

    replace(place.target, make)
    if place.how == "commit":
        event.listen(Engine, "commit", at_commit)
    else:
        replace("comfyline.ledger.database:Database.transact", around_transaction)


class _Half:
    """A file of which only half is ever written."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, content: Any) -> NoReturn:
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        die()

    def writelines(self, lines: Any) -> NoReturn:
        self.write("".join(lines))

    def __enter__(self) -> "_Half":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _half_a_file(module: str, due: _Countdown) -> None:
    if ":" in module:
        _half_of_what_it_writes(module, due)
        return

    def make(function: Any) -> Any:
        def opened(*args: Any, **kwargs: Any) -> Any:
            file = function(*args, **kwargs)
            writes = not isinstance(file, io.BufferedReader) and file.writable()
            return _Half(file) if writes and module in _callers() and due() else file

        return opened

    async def write(self: anyio.AsyncFile[Any], content: Any) -> int:
        if module in _callers() and due():
            _Half(self.wrapped).write(content)
        return await whole(self, content)

    whole = anyio.AsyncFile.write
    anyio.AsyncFile.write = write
    replace("os:fdopen", make)
    replace("pathlib:Path.open", make)


def _half_of_what_it_writes(target: str, due: _Countdown) -> None:
    """The same for a function that is handed a file which was opened elsewhere."""

    def make(function: Any) -> Any:
        def write(*args: Any) -> Any:
            cut = due()
            return function(*(_Half(one) if cut and hasattr(one, "write") else one for one in args))

        return write

    replace(target, make)


def _callers() -> set[str]:
    """The modules that are at work in this thread, as far up as matters."""
    frame, names = inspect.currentframe(), set()
    for _ in range(14):
        if frame is None:
            break
        names.add(str(frame.f_globals.get("__name__")))
        frame = frame.f_back
    return names


def _before_rename(name: str, due: _Countdown) -> None:
    def make(function: Any) -> Any:
        def renamed(self: Path, target: Any) -> Any:
            if Path(target).match(name) and due():
                die()
            return function(self, target)

        return renamed

    replace("pathlib:Path.replace", make)


def _on_the_wire(place: str, due: _Countdown) -> None:
    from comfyline.runcomfy.transport import TrackedBody

    if place in {"half the body", "all but a byte"}:
        whole = TrackedBody.__aiter__

        async def cut(self: TrackedBody) -> AsyncIterator[bytes]:
            async for piece in whole(self):
                # Asked for the next piece, the one before is out.
                if place == "all but a byte":
                    yield piece
                else:
                    yield piece[: len(piece) // 2]
                die()

        TrackedBody.__aiter__ = cut
        return
    told = TrackedBody.trace

    async def trace(self: TrackedBody, event: str, info: dict[str, Any]) -> None:
        if event.endswith(place) and due():
            die()
        await told(self, event, info)

    TrackedBody.trace = trace


def _half_a_put(path: str, due: _Countdown) -> None:
    armed = False
    # Python has no public name for what writes to a socket.
    transport: Any = asyncio.selector_events._SelectorSocketTransport  # noqa: SLF001
    write = transport.write

    def cut(self: Any, data: Any) -> None:
        nonlocal armed
        sent = bytes(data)
        head, _, body = sent.partition(b"\r\n\r\n")
        if not armed and sent.startswith(b"PUT ") and path.encode() in head and due():
            armed = True
            if not body:
                write(self, data)
                return
            sent = sent[: -(len(body) // 2)]
        elif armed:
            sent = sent[: len(sent) // 2]
        write(self, sent)
        if armed:
            die()

    transport.write = cut
