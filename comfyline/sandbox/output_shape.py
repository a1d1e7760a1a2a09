"""The output object of a model: which media it holds, and where in it they stand.

The entry's `output_schema` decides where it has one: its properties with a media format or a
known name, however deep. Where it lists a single value beside a list of the same kind, these are
alternatives. Without a schema there is a list for a model that can make several, else one value.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfyline.sandbox.blob_store import media_type
from comfyline.sandbox.catalogue import CatalogueEntry
from comfyline.sandbox.dialect import media_kind
from comfyline.sandbox.params import how_many, is_number_of_outputs

_NAMES = re.compile(r"(image|video|audio)(s?)")
_ADDRESSES = {"url", "uri"}


def media_to_make(entry: CatalogueEntry, inputs: Mapping[str, Any]) -> list[str]:
    """List the kind of every file that a request asks for, in the order of the output."""
    return list(_flat(_plan(entry, inputs)))


def fill_output(
    entry: CatalogueEntry | None,
    inputs: Mapping[str, Any],
    media: Sequence[str],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return the output with the addresses of the files in their places; empty when they are gone.

    `names` are the files' own; they tell of what type each is.
    """
    if not media:
        return {}
    plan = _plan(entry, inputs) if entry else {}
    if len(list(_flat(plan))) != len(media):
        # The entry has changed since, or is no longer there.
        kind = media_type(names[0]).partition("/")[0]
        return {f"{kind}s": list(media)}
    filled: dict[str, Any] = _fill(plan, iter(media))
    return filled


def _plan(entry: CatalogueEntry, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output with the kind of each file in its place."""
    several = any(is_number_of_outputs(name) for name in entry.input_schema.get("properties") or {})
    number, made = how_many(inputs), entry.makes

    def places(schema: Any, name: str, above: str | None) -> Any:
        """Return the value a schema describes, its media by their kinds; None for whatever else."""
        if not isinstance(schema, Mapping):
            return None
        known = _NAMES.fullmatch(name)
        kind = media_kind(schema) or (known[1] if known else above)
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            parts = {
                key: places(part, key, kind)
                for key, part in properties.items()
                if _is_chosen(key, schema, made, several=several)
            }
            return {key: part for key, part in parts.items() if part is not None}
        if schema.get("type") == "array" or str(schema.get("format")).endswith("_uris"):
            item = places(schema.get("items") or {"format": f"{kind}_uri"}, "url", kind)
            return None if item is None else [item] * number
        return kind if media_kind(schema) or known or name in _ADDRESSES else None

    schema: Any = entry.output_schema or {}
    if "properties" not in schema and isinstance(schema.get("output"), Mapping):
        # As the model page shows it: the schema of the answer's `output`.
        schema = schema["output"]
    plan = places(schema, "", None)
    if isinstance(plan, dict) and any(_flat(plan)):
        return plan
    return {f"{made}s": [made] * number} if several else {made: made}


def _is_chosen(name: str, schema: Mapping[str, Any], made: str, *, several: bool) -> bool:
    """Tell whether the model fills in this one of `image`, `images`, `video`, … in an object."""
    known = _NAMES.fullmatch(name)
    required = schema.get("required")
    if known is None or (isinstance(required, list) and name in required):
        return True
    listed = {found[1] for key in schema["properties"] if (found := _NAMES.fullmatch(key))}
    # Of one kind alone it is that kind, whatever the categories say.
    kind = made if made in listed or len(listed) > 1 else known[1]
    both = {known[1], f"{known[1]}s"} <= set(schema["properties"])
    return known[1] == kind and (not both or bool(known[2]) is several)


def _flat(value: Any) -> Iterator[Any]:
    """Yield every single value of a nested one, in order."""
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _flat(part)
    else:
        yield value


def _fill(plan: Any, media: Iterator[str]) -> Any:
    if isinstance(plan, dict):
        return {key: _fill(part, media) for key, part in plan.items()}
    return [_fill(part, media) for part in plan] if isinstance(plan, list) else next(media)
