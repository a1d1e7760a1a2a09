"""How addresses are written down: without queries and credentials, which may be secrets."""

import re

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>\\^`{|}]+", re.IGNORECASE)
_WHOLE_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE | re.DOTALL)
_USERINFO = re.compile(r"(?<=://)[^/@?#]*@")
_WEB = re.compile(r"https?:", re.IGNORECASE)
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^\s\"'<>,]*,[^\s\"'<>]*", re.IGNORECASE)
# A key with a space in it ends the URL in a text before its query begins.
_SIGNED = re.compile(r"\?\S*X-Amz-\S*", re.IGNORECASE)


def bare_origin(origin: str) -> str:
    """One address, cut off at its query, without user and password.

    A presigned URL carries its permission in the query; as long as it lives it is a password.
    A local path is left alone: there a question mark is a part of the name. A data URI, which
    would be the whole file, keeps its type only.
    """
    if _WHOLE_URL.fullmatch(origin):
        return _bare(origin)
    return _DATA.sub(_type_only, origin)


def without_secrets(text: str) -> str:
    """The text with every address in it written as `bare_origin` writes it."""
    bare = _URL.sub(lambda found: _bare(found[0]), text)
    return _DATA.sub(_type_only, _SIGNED.sub("", bare))


def _bare(url: str) -> str:
    # On the web what follows `#` may be a token; in a bucket it is a part of the name.
    ends = r"[?#]" if _WEB.match(url) else r"\?"
    return re.split(ends, _USERINFO.sub("", url), maxsplit=1)[0]


def _type_only(found: re.Match[str]) -> str:
    return f"data:{found[1]}" if found[1] else found[0]
