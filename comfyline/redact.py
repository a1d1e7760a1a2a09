"""How addresses are written down: without queries and credentials, which may be secrets.

A presigned URL carries its permission in its query, and as long as it lives it is a password.
"""

import re
from typing import Any

# Each pattern takes what it has looked at, found or not: so none reads a hostile text twice.
# A query may hold an apostrophe: better to lose one that ends a quotation than to keep a secret.
_WEB_URL = re.compile(r"(https?://[^\s?#\"'<>\\^`{|}]*)(?:[?#][^\s\"<>]*)?", re.IGNORECASE)
_WHOLE_WEB_URL = re.compile(r"(https?://[^?#]*).*", re.IGNORECASE | re.DOTALL)
_USERINFO = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
# A URL with a space in it ends before its query does.
_QUERY = re.compile(r"\?\S*")
_SECRET = re.compile(r"\b(?:X-Amz-|X-Goog-|Signature=|sig=|token=|key=)", re.IGNORECASE)
_DATA = re.compile(r"data:([^\s\"'<>,]*)(,[^\s\"'<>]*)?", re.IGNORECASE)
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")


def bare_origin(origin: str) -> str:
    """Strip one address of query and credentials; in a path or a bucket `?` is part of a name.

    A data URI, which would be the whole file, keeps its type only.
    """
    return _DATA.sub(_type_only, _WHOLE_WEB_URL.sub(r"\1", _USERINFO.sub("", origin)))


def without_secrets(text: str) -> str:
    """Strip every address in a text of its secrets."""
    bare = _QUERY.sub(_unsigned, _WEB_URL.sub(r"\1", _USERINFO.sub("", text)))
    return _DATA.sub(_type_only, bare)


def for_people(value: Any) -> Any:
    """Strip every address in a value of a pipeline, for names and reports."""
    match value:
        case str():
            return without_secrets(value)
        case dict():
            return {key: for_people(entry) for key, entry in value.items()}
        case list() | tuple():
            return [for_people(entry) for entry in value]
        case _:
            return value


def _unsigned(found: re.Match[str]) -> str:
    return "" if _SECRET.search(found[0]) else found[0]


def _type_only(found: re.Match[str]) -> str:
    media_type = _TYPE.match(found[1]) if found[2] else None
    return f"data:{media_type[0]}" if media_type else found[0]
