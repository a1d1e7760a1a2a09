"""One HTTP answer, read once: what everything above the transport works with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from comfyline.runcomfy.outage import read_retry_after
from comfyline.runcomfy.transport import MOVED_TO

_DEEPEST = 32
"""No answer of RunComfy's is nested like that, and what walks through one must not be made to."""

Places = Mapping[str, tuple[int, int]]
"""Where the media of an answer begin and end in its file, by their stand-ins."""

_AS_IT_CAME = "output"
_LONGEST_ORIGIN = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of an answer that mean something.

    `content` is the parsed JSON, None when it is none; the token is nowhere in it but in `output`,
    which is not shown. `places` says where in the file of an answer that was written down the media
    lie for which `content` has only a stand-in.
    """

    status: int
    content: Any
    retry_after: float | None
    moved_to: str
    places: Places = field(default_factory=dict)


def read_reply(
    answer: httpx.Response, body: bytes, token: str, places: Places | None = None
) -> Reply:
    """Reads an answer that came whole; `body` is what of it is to be parsed."""
    return Reply(
        status=answer.status_code,
        content=_content(body, token),
        retry_after=read_retry_after(answer.headers.get("Retry-After", "")),
        moved_to=_origin(answer.extensions.get(MOVED_TO, "")).replace(token, "***"),
        places=places or {},
    )


def _content(body: bytes, token: str) -> Any:
    try:
        content = json.loads(body)
        if not isinstance(content, Mapping):
            return content if isinstance(content, list) else None
        return {
            _without(token, name): value if name == _AS_IT_CAME else _without(token, value)
            for name, value in content.items()
        }
    except (ValueError, RecursionError):
        return None


def _without(token: str, value: Any, depth: int = 0) -> Any:
    """The same without the token: an error may quote what it complains about.

    Done with what was parsed, because JSON has more than one way of writing a character.
    """
    if depth > _DEEPEST:
        raise RecursionError
    match value:
        case str():
            return value.replace(token, "***")
        case [*parts]:
            return [_without(token, part, depth + 1) for part in parts]
        case dict():
            return {
                _without(token, name): _without(token, part, depth + 1)
                for name, part in value.items()
            }
        case _:
            return value


def _origin(location: str) -> str:
    """Where a redirect leads, without the path and the query, which may be secrets."""
    try:
        url = httpx.URL(location)
        host = url.netloc.decode("ascii")
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return ""
    if url.scheme not in {"http", "https"} or not host or not host.isprintable():
        return ""
    return f"{url.scheme}://{host}"[:_LONGEST_ORIGIN]
