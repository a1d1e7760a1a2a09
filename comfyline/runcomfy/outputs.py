"""The media in a result's output, however it is nested and whatever its fields are called."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfyline.job import MediaKind

_KINDS: Mapping[str, MediaKind] = {"image": "image", "video": "video", "audio": "audio"}
_MEDIA_FIELD = re.compile(r"(image|video|audio)s?(_ur[il]s?)?")
# In `video: {url: …}` it is the field around it that says what this is.
_NAMES_NOTHING = {"url", "urls", "uri", "uris", "src", "href"}
_ADDRESSES = ("https://", "http://", "data:")


@dataclass(frozen=True, slots=True)
class NamedOutput:
    """One medium of a result: its URL or `data:` URI, and the kind that its field names, if any."""

    url: str
    kind: MediaKind | None


def named_outputs(output: Any) -> Iterator[NamedOutput]:
    """Every medium in a result's output, in order."""
    left: list[tuple[str, Any]] = [("", output)]
    while left:
        name, value = left.pop()
        match value:
            case str() if value[:8].lower().startswith(_ADDRESSES):
                found = _MEDIA_FIELD.fullmatch(name)
                yield NamedOutput(value, _KINDS[found[1]] if found else None)
            case Mapping():
                left.extend(
                    (name if key.lower() in _NAMES_NOTHING else key.lower(), part)
                    for key, part in reversed(list(value.items()))
                )
            case [*parts]:
                left.extend((name, part) for part in reversed(parts))


def output_urls(output: Any) -> Iterator[str]:
    """The URL or `data:` URI of every medium in a result's output, in order."""
    return (one.url for one in named_outputs(output))
