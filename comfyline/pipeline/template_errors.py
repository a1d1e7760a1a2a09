"""What is wrong with a pipeline's templates and can be seen before any item is read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.meta import find_undeclared_variables

from comfyline.errors import Problem
from comfyline.job import Pointer
from comfyline.pipeline.template import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    compile_text,
    explain,
    suggest,
    template_environment,
)
from comfyline.yamlfile import LocatedYaml

FILE_FIELDS = ("path", "name", "stem", "ext", "dir")
"""The fields of an item that is a file."""
_RUN_FIELDS = ("date", "id")
_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


def find_template_errors(located: LocatedYaml) -> list[Problem]:
    """Finds what is wrong with the templates of a pipeline that can be seen without its items."""
    fields = _known_fields(located.data)
    problems = [
        Problem(located.where(pointer), message, hint)
        for pointer, text in _templates(located.data)
        for message, hint in _text_errors(text, _names_at(pointer), fields)
    ]
    # What stands behind an anchor is checked at each of its uses, and said once.
    return list(dict.fromkeys(problems))


def _names_at(pointer: Pointer) -> Sequence[str]:
    return OUTPUT_NAMES if pointer == ("output", "name") else INPUT_NAMES


def _templates(document: Mapping[str, Any]) -> Iterator[tuple[Pointer, str]]:
    """Every text that is rendered, wherever the rest of the document may be wrong."""
    steps = document.get("steps")
    for name, step in steps.items() if isinstance(steps, dict) else ():
        for key in ("model", "input", "variant"):
            if isinstance(step, dict):
                yield from _texts(step.get(key), ("steps", name, key))
    output = document.get("output")
    for key in ("to", "name"):
        if isinstance(output, dict):
            yield from _texts(output.get(key), ("output", key))


def _texts(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, (*pointer, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, (*pointer, index))


def _known_fields(document: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The fields of `matrix`, `run` and, for files, `item`: known before any item is read."""
    matrix, source = document.get("matrix"), document.get("source")
    known: dict[str, Sequence[str]] = {"run": _RUN_FIELDS}
    if matrix is None or isinstance(matrix, dict):
        known["matrix"] = list(matrix or ())
    if isinstance(source, dict) and "files" in source:
        known["item"] = FILE_FIELDS
    return known


def _text_errors(
    text: str, names: Sequence[str], fields: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    try:
        compile_text(text)
        parsed = template_environment().parse(text)
        roots = find_undeclared_variables(parsed) - set(template_environment().globals)
    except TemplateError as error:
        yield explain(error)
        return
    except Exception as error:  # noqa: BLE001 — compiling raises whatever Python does, as by depth
        yield f"the template is broken: {error}", ""
        return
    if any(parsed.find_all(_LOADING)):
        yield "a template cannot load another file", ""
    for root in sorted(roots - set(names)):
        if root == "steps":
            yield "the output of another step is not supported yet", ""
        else:
            yield f"`{root}` is not a name that is known here", suggest(root, names)
    # A field that is asked about, or has a default, need not be there.
    filters = {found.name for found in parsed.find_all(nodes.Filter)}
    if filters & {"default", "d"} or any(parsed.find_all(nodes.Test)):
        return
    for root, field in sorted(_fields_used(parsed)):
        if root in roots and root in fields and field not in fields[root]:
            yield f"`{root}` has no `{field}`", suggest(field, fields[root])


def _fields_used(parsed: nodes.Template) -> set[tuple[str, str]]:
    used = set()
    for found in parsed.find_all(nodes.Getattr):
        if isinstance(found.node, nodes.Name):
            used.add((found.node.name, found.attr))
    return used
