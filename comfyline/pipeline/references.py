"""Steps as a graph: which step needs which, by what its templates name; and what is wrong with it.

Everything here reads the document as it was written, so that it holds for one that is otherwise
wrong as well.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from jinja2 import TemplateError, nodes

from comfyline.errors import Problem
from comfyline.job import Pointer
from comfyline.pipeline.template_sandbox import suggest
from comfyline.pipeline.templates import template_environment
from comfyline.yaml.file import LocatedYaml

STEP_FIELDS = ("images", "videos", "audios", "files", "image", "video", "audio")
"""What templates find of a step's outputs: lists of addresses, and the first of each kind."""
USES_STEPS = ("model", "input", "variant", "when", "for_each")
"""Where a step may name another one."""


def step_needs(step: Mapping[str, Any]) -> tuple[str, ...]:
    """The steps that a step's templates name."""
    used = (
        one for key in USES_STEPS for _, text in texts(step.get(key), ()) for one in _used(text)
    )
    return tuple(dict.fromkeys(name for name, _ in used if name is not None))


def step_order(steps: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The steps so that each comes after those that it needs, else as they are written.

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


def find_graph_errors(located: LocatedYaml) -> list[Problem]:
    """References to what does not exist, cycles, and steps that cannot be told apart by name."""
    written = located.data.get("steps")
    steps = (
        {name: step for name, step in written.items() if isinstance(step, dict)}
        if isinstance(written, dict)
        else {}
    )
    problems = [problem for name in steps for problem in _reference_errors(located, name, steps)]
    problems += _output_errors(located, steps)
    if problems:
        return list(dict.fromkeys(problems))
    try:
        step_order(steps)
    except CycleError as error:
        circle = error.args[1]
        # graphlib names each step before the one that it is needed by.
        told = " → ".join(f"`{name}`" for name in reversed(circle))
        message = f"the steps need one another in a circle: {told}"
        return [Problem(located.where(("steps", min(circle, key=list(steps).index))), message)]
    return []


def texts(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    """Every text in a value, with where it stands."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from texts(entry, (*pointer, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from texts(entry, (*pointer, index))


def _reference_errors(
    located: LocatedYaml, name: str, steps: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    known = list(located.data["steps"])
    for key in USES_STEPS:
        for pointer, text in texts(steps[name].get(key), ("steps", name, key)):
            for used, field in _used(text):
                if problem := _wrong(name, used, field, known):
                    yield Problem(located.where(pointer), *problem)


def _wrong(
    name: str, used: str | None, field: str | None, known: list[str]
) -> tuple[str, str] | None:
    if used is None:
        return "a step is named behind a dot", "write {{ steps.NAME.images[0] }}"
    if used == name:
        return f"`{name}` cannot use its own outputs", ""
    if used not in known:
        return f"there is no step `{used}`", suggest(used, [one for one in known if one != name])
    if field is not None and field not in STEP_FIELDS:
        return f"the outputs of a step have no `{field}`", suggest(field, STEP_FIELDS)
    return None


def _output_errors(
    located: LocatedYaml, steps: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """A step that collects has no item, so it cannot be named after one."""
    output = located.data.get("output")
    for name, step in steps.items():
        if not step.get("collect") or not isinstance(output, dict):
            continue
        own = step.get("output") if isinstance(step.get("output"), dict) else {}
        for key in ("to", "name"):
            text = output.get(key)
            if (own or {}).get(key) is None and isinstance(text, str) and _uses_item(text):
                yield Problem(
                    located.where(("steps", name)),
                    f"`{name}` collects all items, and output.{key} uses `item`",
                    f"give the step an `output: {{{key}: …}}` of its own",
                )


def _used(text: str) -> Iterator[tuple[str | None, str | None]]:
    """Each use of `steps` in a template: the step and the field, None where they are not plain."""
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
    return (
        found.arg.value
        if isinstance(found.arg, nodes.Const) and isinstance(found.arg.value, str)
        else None
    )


def _parsed(text: str) -> nodes.Template:
    try:
        return template_environment().parse(text)
    except (TemplateError, RecursionError):
        return nodes.Template([])  # What is broken is told by who checks templates.
