"""`--set key.path=value`: what the command line puts over a YAML document."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from yaml import CollectionNode, ScalarNode

from comfyline.errors import InputInvalid, UsageError
from comfyline.job import Pointer
from comfyline.yaml.file import EXTENDS, LocatedYaml
from comfyline.yaml.nodes import QUOTE_IT, NodeReader
from comfyline.yaml.scalars import in_words

_NOT_MEANT = ("*", "&", "!", "%", "@", "`")
"""What YAML reads as an alias, a tag and the like, and a person types as a pattern or a word."""


def apply_overrides(located: LocatedYaml, overrides: Sequence[str]) -> LocatedYaml:
    """Gives the document with each `key.path=value` put in; the given one stays as it is.

    The value is read as a YAML scalar or in flow style. A number in the path is an entry of a
    list. What an override sets is later located as `--set key.path=value`. Raises UsageError.
    """
    document = deepcopy(located.data)
    positions, spelt = dict(located.positions), dict(located.spelt)
    for override in overrides:
        label = f"--set {override}"
        name, equals, written = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"`{label}` is not understood", hint="write --set key.path=value")
        if keys == [EXTENDS]:
            hint = "Write a file that extends the other one, and run that."
            raise UsageError(f"`{label}`: a file is extended in YAML only", hint=hint)
        pointer = _put(document, keys, _override_value(written.strip(), label), label)
        positions = {at: p for at, p in positions.items() if at[: len(pointer)] != pointer}
        spelt = {at: p for at, p in spelt.items() if at[: len(pointer)] != pointer}
        for length in range(1, len(pointer) + 1):
            positions.setdefault(pointer[:length], label)
    return LocatedYaml(located.path, document, positions, spelt)


def _override_value(written: str, label: str) -> Any:
    """Reads the right side of `--set`; text that only looks like YAML stays what was typed."""
    if written.split(maxsplit=1)[:1] == ["!file"]:
        raise UsageError(f"`{label}`: `!file` is for YAML files", hint="Write the text itself.")
    if written.startswith(("{{", *_NOT_MEANT)):
        return written
    reader = NodeReader(label, takes_files=False)
    try:
        node = reader.compose(written)
        if node is None:
            return None
        if isinstance(node, CollectionNode):
            is_typed_text = not node.flow_style
        else:
            # A comment sign or a fold would have cut something off.
            is_plain = isinstance(node, ScalarNode) and not node.style
            is_typed_text = is_plain and node.value != written
        if is_typed_text:
            return written
        value = reader.build(node, ())
    except InputInvalid as error:
        reader.problems.extend(error.problems)
    if reader.problems:
        first = reader.problems[0]
        raise UsageError(f"`{label}`: {first.message}", hint=first.hint or QUOTE_IT)
    return value


def _put(document: dict[str, Any], keys: list[str], value: Any, label: str) -> Pointer:
    """Sets one value in place, creating mappings on the way; gives where it was put."""
    parent: Any = document
    pointer: list[str | int] = []
    for depth, key in enumerate(keys):
        if isinstance(parent, list) and key.isdecimal() and int(key) < len(parent):
            pointer.append(int(key))
        elif isinstance(parent, dict):
            pointer.append(key)
        else:
            above = ".".join(keys[:depth])
            raise UsageError(f"`{label}`: there is no `{key}` in `{above}`, {in_words(parent)}")
        if depth < len(keys) - 1:
            if isinstance(parent, dict) and parent.get(key) is None:
                parent[key] = {}
            parent = parent[pointer[-1]]
    parent[pointer[-1]] = value
    return tuple(pointer)
