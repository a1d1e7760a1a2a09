"""What templates name: which step needs which, and what is wrong before any item is read.

Everything here reads the document as it was written, so that it holds for one that is otherwise
wrong as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.meta import find_undeclared_variables

from comfyline.errors import Problem
from comfyline.job import Pointer
from comfyline.pipeline.templates import compile_text, explain, suggest, template_environment
from comfyline.yaml.file import LocatedYaml

FILE_FIELDS = ("path", "name", "stem", "ext", "dir")
"""The fields of an item that is a file."""
_STEP_FIELDS = ("images", "videos", "audios", "files", "image", "video", "audio")
"""What templates find of a step's outputs: lists of addresses, and the first of each kind."""
_RUN_FIELDS = ("date", "id")
_EVERYWHERE = ("item_name", "run", "step", "env")
"""What every template may use; `item_name` is the unique name that items have in logs."""
_USES_STEPS = ("model", "input", "variant", "when", "for_each")
"""Where a step may name another one."""
_ELSEWHERE = {
    "item": "a step that collects has no item; `items` are all of them",
    "each": "it exists only in a step with `for_each`",
    "each_index": "it exists only in a step with `for_each`",
    "steps": "the outputs of steps exist only in a step's model, input, variant, when and for_each",
    "items": "it exists only in a step with `collect`",
    "matrix": "a step with `collect: true` takes all combinations; `collect: items` has each",
}


def step_needs(step: Mapping[str, Any]) -> tuple[str, ...]:
    """List the steps that a step's templates name."""
    used = (
        one for key in _USES_STEPS for _, text in _texts(step.get(key), ()) for one in _used(text)
    )
    return tuple(dict.fromkeys(name for name, _ in used if name is not None))


def step_order(steps: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Order the steps so that each comes after those that it needs, else as they are written.

    Raises `graphlib.CycleError`.
    """
    sorter = TopologicalSorter({name: step_needs(step) for name, step in steps.items()})
    sorter.prepare()
    written = {name: number for number, name in enumerate(steps)}
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda name: written.get(name, -1))
        ordered += ready
        sorter.done(*ready)
    return tuple(ordered)


def find_reference_mistakes(located: LocatedYaml) -> list[Problem]:
    """Find broken templates, names that there are not, and steps in a circle."""
    written = located.data.get("steps")
    named = written if isinstance(written, dict) else {}
    steps = {name: step for name, step in named.items() if isinstance(step, dict)}
    fields = _known_fields(located.data)
    in_templates = [
        Problem(located.where(pointer), *mistake)
        for pointer, text, names in _templates(located.data, steps)
        for mistake in _template_mistakes(text, names, fields)
    ]
    of_steps = [
        Problem(located.where(pointer), *mistake)
        for name, step in steps.items()
        for key in _USES_STEPS
        for pointer, text in _texts(step.get(key), ("steps", name, key))
        for used in _used(text)
        if (mistake := _step_mistake(name, *used, list(named)))
    ]
    of_steps += _output_mistakes(located, steps)
    # What stands behind an anchor is checked at each of its uses, and said once.
    return list(dict.fromkeys([*in_templates, *(of_steps or _circle(located, steps))]))


def _circle(located: LocatedYaml, steps: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    try:
        step_order(steps)
    except CycleError as error:
        circle = error.args[1]
        # graphlib names each step before the one that it is needed by.
        way = " → ".join(f"`{name}`" for name in reversed(circle))
        where = located.where(("steps", min(circle, key=list(steps).index)))
        return [Problem(where, f"the steps depend on each other in a circle: {way}")]
    return []


def _texts(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    """Yield every text in a value, with where it stands."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, (*pointer, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, (*pointer, index))


def _templates(
    document: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Pointer, str, Sequence[str]]]:
    """Yield every text that is rendered and the names that it may use."""
    in_a_step = {True: ("items",), "items": ("items", "matrix")}
    for name, step in steps.items():
        collect = step.get("collect")
        own = in_a_step.get(collect, ()) if isinstance(collect, bool | str) else ()
        names = (*_EVERYWHERE, *(own or ("item", "matrix")))
        fanned = (*names, "each_index", *(("each",) if step.get("for_each") is not None else ()))
        for key in _USES_STEPS:
            known = (*(names if key == "for_each" else fanned), "steps")
            for pointer, text in _texts(step.get(key), ("steps", name, key)):
                yield pointer, text, known
        yield from _output_templates(step.get("output"), ("steps", name, "output"), fanned)
    everywhere = (*_EVERYWHERE, "item", "matrix", "each_index")
    yield from _output_templates(document.get("output"), ("output",), everywhere)


def _output_templates(
    output: Any, at: Pointer, names: Sequence[str]
) -> Iterator[tuple[Pointer, str, Sequence[str]]]:
    for key, more in (("to", ()), ("name", ("index", "ext"))) if isinstance(output, dict) else ():
        for pointer, text in _texts(output.get(key), (*at, key)):
            yield pointer, text, (*names, *more)


def _known_fields(document: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the fields of `matrix`, `run`, `env` and, for files, `item`: known before any item."""
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


def _template_mistakes(
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
        yield f"invalid template: {error}", ""
        return
    for root in sorted(roots - set(names)):
        hint = _ELSEWHERE.get(root) or suggest(root, names)
        yield f"unknown name `{root}`", hint
    # A field that is asked about, or has a default, need not be there.
    filters = {found.name for found in parsed.find_all(nodes.Filter)}
    if filters & {"default", "d"} or any(parsed.find_all(nodes.Test)):
        return
    used = {
        (found.node.name, found.attr)
        for found in parsed.find_all(nodes.Getattr)
        if isinstance(found.node, nodes.Name)
    }
    for root, field in sorted(used):
        if root in roots and root in fields and field not in fields[root]:
            yield f"`{root}` has no `{field}`", suggest(field, fields[root])


def _step_mistake(
    name: str, used: str | None, field: str | None, known: Sequence[str]
) -> tuple[str, str] | None:
    if used is None:
        return "a step has to be named after a dot", "write {{ steps.NAME.images[0] }}"
    if used == name:
        return f"`{name}` cannot use its own outputs", ""
    if used not in known:
        return f"there is no step `{used}`", suggest(used, [one for one in known if one != name])
    if field is not None and field not in _STEP_FIELDS:
        return f"the outputs of a step have no `{field}`", suggest(field, _STEP_FIELDS)
    return None


def _output_mistakes(
    located: LocatedYaml, steps: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """Find steps that collect and would be named after an item, which they do not have."""
    output = located.data.get("output")
    for name, step in steps.items():
        if not step.get("collect") or not isinstance(output, dict):
            continue
        own = step.get("output")
        for key in ("to", "name"):
            text = output.get(key)
            is_own = isinstance(own, dict) and own.get(key) is not None
            if not is_own and isinstance(text, str) and _uses_item(text):
                yield Problem(
                    located.where(("steps", name)),
                    f"`{name}` collects all items, but output.{key} uses `item`",
                    f"give the step an `output: {{{key}: …}}` of its own",
                )


def _used(text: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield each use of `steps`: the step and the field, None where they are not plain."""
    if "steps" not in text:
        return
    parsed = _parsed(text)
    found: list[nodes.Getattr | nodes.Getitem] = [
        *parsed.find_all(nodes.Getattr),
        *parsed.find_all(nodes.Getitem),
    ]
    fields = {id(one.node): _key(one) for one in found}
    named = [one for one in found if isinstance(one.node, nodes.Name) and one.node.name == "steps"]
    for one in named:
        yield _key(one), fields.get(id(one))
    plain = {id(one.node) for one in named}
    for name in parsed.find_all(nodes.Name):
        if name.name == "steps" and id(name) not in plain:
            yield None, None


def _uses_item(text: str) -> bool:
    return any(one.name == "item" for one in _parsed(text).find_all(nodes.Name))


def _key(found: nodes.Getattr | nodes.Getitem) -> str | None:
    if isinstance(found, nodes.Getattr):
        return found.attr
    is_text = isinstance(found.arg, nodes.Const) and isinstance(found.arg.value, str)
    return found.arg.value if is_text else None  # type: ignore[attr-defined]


def _parsed(text: str) -> nodes.Template:
    try:
        return template_environment().parse(text)
    except (TemplateError, RecursionError):
        return nodes.Template([])  # A broken template is told of once, by `_template_mistakes`.
