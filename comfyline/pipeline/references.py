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
from comfyline.yaml.file import LocatedYaml, texts_in

FILE_FIELDS = ("path", "name", "stem", "ext", "dir")
"""The fields of an item that is a file."""
_STEP_FIELDS = ("images", "videos", "audios", "files", "image", "video", "audio")
"""What templates find of a step's outputs: lists of addresses, and the first of each kind."""
_RUN_FIELDS = ("date", "id")
_EVERYWHERE = ("item_name", "run", "step", "env")
"""What every template may use; `item_name` is the unique name that items have in logs."""
_USES_STEPS = ("model", "input", "variant", "when", "for_each")
"""Where a step may name another one."""
_OUTPUT_NAMES: Mapping[str, list[str]] = {"to": [], "name": ["index", "ext"]}
"""The templates under `output`, and what each may use besides."""
_ELSEWHERE = {
    "item": "a step that collects has no item: `items` are all of them, and its `output:` may have "
    "a name of its own",
    "each": "it exists only in a step with `for_each`",
    "each_index": "it exists only in a step with `for_each`",
    "steps": "the outputs of steps exist only in a step's model, input, variant, when and for_each",
    "items": "it exists only in a step with `collect`",
    "matrix": "a step with `collect: true` takes all combinations; `collect: items` has each",
}


def step_needs(step: Mapping[str, Any]) -> tuple[str, ...]:
    """List the steps that a step's templates name."""
    texts = [text for key in _USES_STEPS for _, text in texts_in(step.get(key))]
    used = (one for text in texts if "steps" in text for one in _used_steps(_parsed(text)))
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
    problems = [
        Problem(located.where(pointer), *mistake)
        for pointer, text, names in _templates(located.data, steps)
        for mistake in _template_mistakes(text, names, fields, list(named))
    ]
    # What stands behind an anchor is checked at each of its uses, and said once.
    problems += [*_circle(located, steps), *_share(located)]
    once = {(one.where, one.message): one for one in problems}
    return list(once.values())


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


def _share(located: LocatedYaml) -> list[Problem]:
    """Find a `limits.share` that names a label which no job has."""
    limits, labels = located.data.get("limits"), located.data.get("labels")
    share = limits.get("share") if isinstance(limits, dict) else None
    names = list(labels) if isinstance(labels, dict) else []
    name = share.removeprefix("label.") if isinstance(share, str) else share
    # What names no label at all is a mistake of its own.
    if not name or name == share or name in names:
        return []
    hint = suggest(name, names) or "add it under `labels`, such as {" + name + ": ...}"
    where = located.where(("limits", "share"))
    return [Problem(where, f"there is no label `{name}`", hint)]


def _templates(
    document: Mapping[str, Any], steps: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Pointer, str, Sequence[str]]]:
    """Yield every text that is rendered and the names that it may use."""
    shared = _output_texts(document.get("output"), ("output",))
    for name, step in steps.items():
        collects = step.get("collect") if step.get("collect") in (True, "items") else False
        own_names = {True: ["items"], "items": ["items", "matrix"], False: ["item", "matrix"]}
        names = [*_EVERYWHERE, *own_names[collects]]
        fanned = [*names, "each_index", *(["each"] if step.get("for_each") is not None else [])]
        for key in _USES_STEPS:
            known = [*(names if key == "for_each" else fanned), "steps"]
            for pointer, text in texts_in(step.get(key), ("steps", name, key)):
                yield pointer, text, known
        own = _output_texts(step.get("output"), ("steps", name, "output"))
        for key, (pointer, text) in {**(shared if collects else {}), **own}.items():
            yield pointer, text, fanned + _OUTPUT_NAMES[key]
    for pointer, text in texts_in(document.get("labels"), ("labels",)):
        yield pointer, text, [*_EVERYWHERE, "item", "matrix"]
    everywhere = [*_EVERYWHERE, "item", "matrix", "each_index"]
    for key, (pointer, text) in shared.items():
        yield pointer, text, everywhere + _OUTPUT_NAMES[key]


def _output_texts(output: Any, at: Pointer) -> dict[str, tuple[Pointer, str]]:
    written = output if isinstance(output, dict) else {}
    texts = {key: written.get(key) for key in _OUTPUT_NAMES}
    return {key: ((*at, key), text) for key, text in texts.items() if isinstance(text, str)}


def _known_fields(document: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the fields of `matrix`, `run`, `env` and, for files, `item`: known before any item."""
    matrix, source, env = (document.get(key) for key in ("matrix", "source", "env"))
    known: dict[str, Sequence[str]] = {"run": _RUN_FIELDS}
    if isinstance(matrix, dict) or matrix is None:
        lists = dict(matrix or {})
        added, _ = lists.pop("include", None), lists.pop("exclude", None)
        rows = [row for row in added if isinstance(row, dict)] if isinstance(added, list) else []
        known["matrix"] = list(dict.fromkeys([*lists, *(name for row in rows for name in row)]))
    if isinstance(env, list) or env is None:
        known["env"] = [name for name in env or () if isinstance(name, str)]
    if isinstance(source, dict) and "files" in source:
        known["item"] = FILE_FIELDS
    return known


def _template_mistakes(
    text: str, names: Sequence[str], fields: Mapping[str, Sequence[str]], steps: Sequence[str]
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
        yield f"unknown name `{root}`", _ELSEWHERE.get(root) or suggest(root, names)
    if "steps" in names:
        for used, field in _used_steps(parsed):
            yield from _step_mistakes(used, field, steps)
    # A field that is asked about, or has a default, need not be there.
    filters = {found.name for found in parsed.find_all(nodes.Filter)}
    if filters & {"default", "d"} or any(parsed.find_all(nodes.Test)):
        return
    used_fields = {
        (found.node.name, found.attr)
        for found in parsed.find_all(nodes.Getattr)
        if isinstance(found.node, nodes.Name)
    }
    for root, field in sorted(used_fields):
        if root in roots and root in fields and field not in fields[root]:
            yield f"`{root}` has no `{field}`", suggest(field, fields[root])


def _step_mistakes(
    used: str | None, field: str | None, steps: Sequence[str]
) -> Iterator[tuple[str, str]]:
    if used is None:
        yield "a step has to be named after a dot", "write {{ steps.NAME.images[0] }}"
    elif used not in steps:
        yield f"there is no step `{used}`", suggest(used, steps)
    elif field is not None and field not in _STEP_FIELDS:
        yield f"the outputs of a step have no `{field}`", suggest(field, _STEP_FIELDS)


def _used_steps(parsed: nodes.Template) -> Iterator[tuple[str | None, str | None]]:
    """Yield each use of `steps`: the step and the field, None where they are not plain."""
    found: list[nodes.Getattr | nodes.Getitem] = [
        *parsed.find_all(nodes.Getattr),
        *parsed.find_all(nodes.Getitem),
    ]
    behind = {id(one.node): one for one in found}
    for name in parsed.find_all(nodes.Name):
        if name.name == "steps":
            step = behind.get(id(name))
            yield _key(step), _key(behind.get(id(step)))


def _key(found: nodes.Expr | None) -> str | None:
    match found:
        case nodes.Getattr(attr=str(key)) | nodes.Getitem(arg=nodes.Const(value=str(key))):
            return key
        case _:
            return None


def _parsed(text: str) -> nodes.Template:
    try:
        return template_environment().parse(text)
    except (TemplateError, RecursionError):
        return nodes.Template([])  # A broken template is told of once, by `_template_mistakes`.
