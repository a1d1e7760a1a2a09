"""RunComfy's dialect of JSON Schema: what it adds to the standard, and how an input is checked.

Media fields are recognised by `format`: the singular form stands on a string, the plural form on
an array whose items may say nothing. Their `validations` are rules, each with a number and the
sentence for who breaks it; a rule names a fact about the file and how it compares:
`file_size_mb<`, `width/height>`. What is not understood cannot be judged, and so forbids nothing.
"""

import ipaddress
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs

_STANDARD_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_MEDIA = {
    f"{kind}_{form}": kind for kind in ("image", "video", "audio") for form in ("uri", "uris")
}

# No pattern of a catalogue can hang the server.
_PATTERNS = jsonschema_rs.RegexOptions()
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")

_MEGABYTE = 1024 * 1024
_RULE = re.compile(r"([a-z_*/]+?)\s*(<=|>=|<|>)", re.IGNORECASE)
_HOLDS: Mapping[str, Callable[[float, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why an input is refused; `path` leads to the field."""

    path: Path
    message: str
    kind: str


@dataclass(frozen=True, slots=True)
class MediaValue:
    """One media URL in an input: an image, a video or audio, and the `validations` of its field."""

    path: Path
    kind: str
    value: Any
    rules: tuple[Any, ...] = ()


def translate(schema: Any) -> Any:
    """Turn a schema of the dialect into plain JSON Schema."""
    if isinstance(schema, list):
        return [translate(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        match key:
            case "properties" | "$defs" | "definitions" if isinstance(value, dict):
                # A property may be called `type` or `format`; its name is no keyword.
                plain[key] = {name: translate(part) for name, part in value.items()}
            case "type":
                words = [value] if isinstance(value, str) else list(value or [])
                words = ["number" if word == "float" else word for word in words]
                # A word that the standard does not know cannot be checked, so it forbids nothing.
                if words and _STANDARD_TYPES.issuperset(words):
                    plain[key] = words + ["null"] * (schema.get("nullable") is True)
            case "format" if value in _MEDIA and value.endswith("s"):
                plain.setdefault("type", ["array"])
            case "enum" if schema.get("nullable") is True and isinstance(value, list):
                plain[key] = [*value, None]
            case "default" | "enum" | "const":
                plain[key] = value
            case "format" | "validations" | "nullable":
                pass
            case _:
                plain[key] = translate(value)
    return plain


def media_values(schema: Any, value: Any) -> Iterator[MediaValue]:
    """Yield every media value of an input once, in the order of the schema."""
    seen: set[Path] = set()
    for media in _media(schema, value, (), (), schema):
        if media.path not in seen:
            seen.add(media.path)
            yield media


def _media(
    schema: Any, value: Any, path: Path, above: tuple[Any, ...], root: Any
) -> Iterator[MediaValue]:
    """`above` are the rules of the array around: they are meant for each of its items."""
    schema = _resolve(schema, root)
    if value is None or not isinstance(schema, Mapping):
        return
    own = schema.get("validations")
    rules = (*above, *(own if isinstance(own, list) else ()))
    if kind := media_kind(schema):
        if not isinstance(value, list):
            yield MediaValue(path, kind, value, rules)
            return
        yield from (MediaValue((*path, at), kind, one, rules) for at, one in enumerate(value))
        return
    for branch in (part for key in _ALTERNATIVES for part in schema.get(key) or ()):
        yield from _media(branch, value, path, rules, root)
    if isinstance(value, dict):
        for name, part in (schema.get("properties") or {}).items():
            if name in value:
                yield from _media(part, value[name], (*path, name), (), root)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _media(schema.get("items"), one, (*path, number), rules, root)


def media_kind(schema: Mapping[str, Any]) -> str | None:
    """Return the kind of media that a field holds by its `format`, None when it holds none."""
    return _MEDIA.get(str(schema.get("format")))


def _resolve(schema: Any, root: Any) -> Any:
    """Follow a reference within the schema, such as `#/$defs/Clip`."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if not isinstance(reference, str):
        return schema
    found = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def check(schema: Mapping[str, Any], value: Any) -> list[Violation]:
    """Say everything that is wrong with an input; an empty list means that it is accepted."""
    try:
        validator = jsonschema_rs.Draft202012Validator(translate(schema), pattern_options=_PATTERNS)
        errors = list(validator.iter_errors(value))
    except ValueError as error:
        return [Violation((), f"this cannot be checked: {error}", "json_schema")]
    mistakes = []
    for found in errors:
        kind, path = found.kind, tuple(found.instance_path)
        if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
            # The engine reports the object; the field that is missing is what a caller needs.
            path = (*path, kind.property)
        mistakes.append(Violation(path, found.message, kind.name))
    known = {mistake.path for mistake in mistakes}
    mistakes.extend(
        Violation(media.path, reason, "media_url")
        for media in media_values(schema, value)
        if media.path not in known and (reason := refuse_url(media.value))
    )
    return sorted(mistakes, key=lambda mistake: [str(part) for part in mistake.path])


def refuse_url(value: Any) -> str | None:
    """Say why RunComfy's servers could not fetch this URL, or None when they may try."""
    if not isinstance(value, str):
        return "a media value must be a URL"
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
    except ValueError:
        return "this is no URL"
    if parts.scheme == "https" and host:
        return None
    if parts.scheme == "http" and _is_loopback(host):
        # RunComfy demands HTTPS. Object storage on this machine has none.
        return None
    return "a media value must be a publicly reachable https:// URL"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_defaults(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of missing optional fields.

    A required field's default is only an example, and so is that of a medium: nobody who leaves
    the reference picture out wants the model page's one.
    """
    filled = dict(value)
    required = schema.get("required") or []
    for name, part in (schema.get("properties") or {}).items():
        optional = name not in filled and name not in required
        if optional and isinstance(part, dict) and "default" in part:
            example = any(True for _ in media_values(part, part["default"]))
            if not example:
                filled[name] = part["default"]
    return filled


def facts_of(
    size_bytes: int, size: tuple[int, int] | None = None, seconds: float | None = None
) -> dict[str, float]:
    """Return the facts of a media file under every name that a rule can call them by."""
    found = {"file_size_mb": size_bytes / _MEGABYTE, "file_size_kb": size_bytes / 1024}
    if size is not None:
        width, height = size
        found |= {"width_pixels": width, "height_pixels": height, "width": width, "height": height}
        found |= {"width/height": width / height, "height/width": height / width}
        found |= {"width*height": width * height}
    if seconds is not None:
        names = ("duration", "duration_s", "duration_seconds", "seconds")
        found |= dict.fromkeys(names, seconds)
    return found


def broken_rule(rules: Iterable[Any], facts: Mapping[str, float]) -> str | None:
    """Return the sentence of the first rule that a file breaks, None when it keeps them all."""
    for rule in rules:
        entry = rule if isinstance(rule, Mapping) else {}
        written = _RULE.fullmatch(str(entry.get("validation_rule", "")).strip())
        fact = facts.get(written[1].lower()) if written else None
        bound = entry.get("validation_value")
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if written and fact is not None and is_number and not _HOLDS[written[2]](fact, bound):
            return str(entry.get("validation_error") or f"must be {written[0]} {bound:g}")
    return None
