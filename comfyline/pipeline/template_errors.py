"""What is wrong with a pipeline's templates and can be seen before any item is read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.meta import find_undeclared_variables

from comfyline.errors import Problem
from comfyline.job import Pointer
from comfyline.pipeline.references import USES_STEPS, texts
from comfyline.pipeline.template_sandbox import suggest
from comfyline.pipeline.templates import (
    RUN_NAMES,
    compile_text,
    explain,
    template_environment,
)
from comfyline.yaml.file import LocatedYaml

FILE_FIELDS = ("path", "name", "stem", "ext", "dir")
"""The fields of an item that is a file."""
_RUN_FIELDS = ("date", "id")


def find_template_errors(located: LocatedYaml) -> list[Problem]:
    """Finds what is wrong with the templates of a pipeline that can be seen without its items."""
    fields = _known_fields(located.data)
    problems = [
        Problem(located.where(pointer), message, hint)
        for pointer, text, names in _templates(located.data)
        for message, hint in _text_errors(text, names, fields)
    ]
    # What stands behind an anchor is checked at each of its uses, and said once.
    return list(dict.fromkeys(problems))


def _templates(document: Mapping[str, Any]) -> Iterator[tuple[Pointer, str, Sequence[str]]]:
    """Every text that is rendered and the names it may use, wherever the rest may be wrong."""
    steps = document.get("steps")
    for name, step in steps.items() if isinstance(steps, dict) else ():
        if not isinstance(step, dict):
            continue
        names = _names_in(step)
        fanned = (*names, "each_index")
        if step.get("for_each") is not None:
            fanned = (*fanned, "each")
        for key in USES_STEPS:
            known = (*(names if key == "for_each" else fanned), "steps")
            for pointer, text in texts(step.get(key), ("steps", name, key)):
                yield pointer, text, known
        yield from _output_templates(step.get("output"), ("steps", name, "output"), fanned)
    everywhere = (*RUN_NAMES, "item", "matrix", "each_index")
    yield from _output_templates(document.get("output"), ("output",), everywhere)


def _names_in(step: Mapping[str, Any]) -> tuple[str, ...]:
    match step.get("collect"):
        case True:
            return (*RUN_NAMES, "items")
        case "items":
            return (*RUN_NAMES, "items", "matrix")
        case _:
            return (*RUN_NAMES, "item", "matrix")


def _output_templates(
    output: Any, at: Pointer, names: Sequence[str]
) -> Iterator[tuple[Pointer, str, Sequence[str]]]:
    if isinstance(output, dict):
        for pointer, text in texts(output.get("to"), (*at, "to")):
            yield pointer, text, names
        for pointer, text in texts(output.get("name"), (*at, "name")):
            yield pointer, text, (*names, "index", "ext")


def _known_fields(document: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The fields of `matrix`, `run`, `env` and, for files, `item`: known before any item is."""
    matrix, source, env = (document.get(key) for key in ("matrix", "source", "env"))
    known: dict[str, Sequence[str]] = {"run": _RUN_FIELDS}
    if matrix is None or isinstance(matrix, dict):
        known["matrix"] = _matrix_names(matrix or {})
    if env is None or isinstance(env, list):
        known["env"] = [name for name in env or () if isinstance(name, str)]
    if isinstance(source, dict) and "files" in source:
        known["item"] = FILE_FIELDS
    return known


def _matrix_names(matrix: Mapping[str, Any]) -> list[str]:
    added = matrix.get("include")
    rows = [one for one in added if isinstance(one, dict)] if isinstance(added, list) else []
    lists = [name for name in matrix if name not in {"include", "exclude"}]
    return list(dict.fromkeys([*lists, *(name for row in rows for name in row)]))


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
    for root in sorted(roots - set(names)):
        yield f"`{root}` is not a name that is known here", _instead(root, names)
    # A field that is asked about, or has a default, need not be there.
    filters = {found.name for found in parsed.find_all(nodes.Filter)}
    if filters & {"default", "d"} or any(parsed.find_all(nodes.Test)):
        return
    for root, field in sorted(_fields_used(parsed)):
        if root in roots and root in fields and field not in fields[root]:
            yield f"`{root}` has no `{field}`", suggest(field, fields[root])


_ELSEWHERE = {
    "item": "a step that collects has no item; `items` are all of them",
    "each": "it is there in a step with `for_each`",
    "each_index": "it is there in a step with `for_each`",
    "steps": "the outputs of steps are there in a step's model, input, variant, when and for_each",
    "items": "it is there in a step with `collect`",
    "matrix": "a step with `collect: true` takes all combinations; `collect: items` has each",
}


def _instead(root: str, names: Sequence[str]) -> str:
    return _ELSEWHERE.get(root) or suggest(root, names)


def _fields_used(parsed: nodes.Template) -> set[tuple[str, str]]:
    used = set()
    for found in parsed.find_all(nodes.Getattr):
        if isinstance(found.node, nodes.Name):
            used.add((found.node.name, found.attr))
    return used
