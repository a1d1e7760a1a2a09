"""What is asked for differently than before, in the words of who wrote the pipeline. Pure."""

from collections.abc import Mapping
from typing import Any

from comfyline.job import CheckedJob, Media, MediaKind, Pointer

_CALLED: Mapping[MediaKind, str] = {"image": "photo", "video": "video", "audio": "sound"}
_PLAIN = {"prompt"}
"""Fields that are called by their name alone."""


def changes(before: CheckedJob, after: CheckedJob) -> tuple[str, ...]:
    """What makes another job of the same item and step: `prompt changed`, `photo changed`.

    Media are the same when their bytes and their conversion are, wherever they lie. Something is
    always named, also where the two differ only in what is not kept, such as the query of a URL.
    """
    old, new = before.job, after.job
    told: dict[str, None] = {}
    if old.model_id != new.model_id:
        told["model changed"] = None
    for name in {**new.inputs, **old.inputs}:
        old_media, new_media = _media(before, name), _media(after, name)
        if _contents(old_media) != _contents(new_media):
            told |= dict.fromkeys(_media_words(old_media, new_media))
        if _rest(old.inputs, name, old_media) != _rest(new.inputs, name, new_media):
            told[f"{name} changed" if name in _PLAIN else f"`{name}` changed"] = None
    if not _same(old.variant, new.variant):
        told["variant changed"] = None
    return tuple(told) or ("inputs changed",)


def _media(checked: CheckedJob, name: str) -> dict[Pointer, Media]:
    return {one.pointer: one for one in checked.media if one.pointer[0] == name}


def _contents(media: Mapping[Pointer, Media]) -> list[tuple[str, str]]:
    return [(media[at].sha256, media[at].conversion) for at in sorted(media, key=_order)]


def _media_words(old: Mapping[Pointer, Media], new: Mapping[Pointer, Media]) -> list[str]:
    kinds = dict.fromkeys(one.kind for one in (*new.values(), *old.values()))
    same_bytes = [one for one, _ in _contents(old)] == [one for one, _ in _contents(new)]
    what = "is converted differently" if same_bytes else "changed"
    return [f"{_CALLED[kind]} {what}" for kind in kinds]


def _rest(inputs: Mapping[str, Any], name: str, media: Mapping[Pointer, Media]) -> Any:
    """A field without its media, in a form in which equal is what JSON takes for equal."""
    if name not in inputs:
        # A field that holds nothing but media, and one that is not there, hold the same else.
        return None
    return _without(inputs[name], (name,), frozenset(media))


def _without(value: Any, pointer: Pointer, media: frozenset[Pointer]) -> Any:
    if pointer in media:
        return None
    if isinstance(value, Mapping):
        inner = {key: _without(entry, (*pointer, key), media) for key, entry in value.items()}
        left = {key: entry for key, entry in inner.items() if (*pointer, key) not in media}
        return left if left or not value else None
    if isinstance(value, list | tuple):
        entries = [
            _without(entry, (*pointer, index), media)
            for index, entry in enumerate(value)
            if (*pointer, index) not in media
        ]
        return entries if entries or not value else None
    return type(value).__name__, value


def _same(one: Any, other: Any) -> bool:
    return bool(_without(one, (), frozenset()) == _without(other, (), frozenset()))


def _order(pointer: Pointer) -> list[tuple[int, int, str]]:
    return [(0, key, "") if isinstance(key, int) else (1, 0, key) for key in pointer]
