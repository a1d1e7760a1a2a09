"""How addresses are written down: without queries and credentials, which may be secrets.

A presigned URL carries its permission in its query, and as long as it lives it is a password.
"""

import re

# A query may hold an apostrophe: better to lose one that ends a quotation than to keep a secret.
_WEB_URL = re.compile(r"(https?://[^\s?#\"'<>\\^`{|}]*)[?#][^\s\"<>]*", re.IGNORECASE)
_WHOLE_WEB_URL = re.compile(r"(https?://[^?#]*).*", re.IGNORECASE | re.DOTALL)
_USERINFO = re.compile(r"(?<=://)[^/@?#\s]*@")
# A URL with a space in it ends before its query does.
_SIGNED = re.compile(r"\?\S*\b(?:X-Amz-|X-Goog-|Signature=|sig=|token=|key=)\S*", re.IGNORECASE)
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^\s\"'<>,]*,[^\s\"'<>]*", re.IGNORECASE)


def bare_origin(origin: str) -> str:
    """One address without query and credentials; in a path or a bucket `?` is part of a name.

    A data URI, which would be the whole file, keeps its type only.
    """
    return _DATA.sub(_type_only, _WHOLE_WEB_URL.sub(r"\1", _USERINFO.sub("", origin)))


def without_secrets(text: str) -> str:
    """The text with every address in it bare."""
    bare = _SIGNED.sub("", _WEB_URL.sub(r"\1", _USERINFO.sub("", text)))
    return _DATA.sub(_type_only, bare)


def _type_only(found: re.Match[str]) -> str:
    return f"data:{found[1]}" if found[1] else found[0]
