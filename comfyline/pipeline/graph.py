"""Make a graph of items × matrix × steps, and the jobs of a node once its inputs are known.

A *node* is one step for one item and combination, or for a collecting step for all of them. What a
node needs is known from the document; what jobs it has only when its needs have been made, because
a step may fan out over outputs, or not apply. Nothing here is checked against a model yet.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfyline.job import Item, Job
from comfyline.pipeline.document import Matrix, Pipeline
from comfyline.pipeline.references import step_needs, step_order
from comfyline.pipeline.render import JobWriter, Made, Rendered, Row, RunScope

ALL_ITEMS = "all"
"""How the jobs of a collecting step are called in the place of an item."""

Combination = dict[str, Any]

NodeId = tuple[str, int]
"""A step's name, and which of its nodes."""


class Dag:
    """All nodes of a run. Nodes of a step are numbered by item, then by combination.

    `steps_needed` are by step those whose outputs it takes, `handing_on` all of these; `order` has
    each after them. `combinations` are those of the matrix, a single empty one without. With
    `of_some_items` it has no step that collects, and none that needs such a one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        items: Sequence[Item],
        run: RunScope,
        *,
        of_some_items: bool = False,
    ) -> None:
        document, steps = pipeline.document, pipeline.yaml.data["steps"]
        self.items = tuple(items)
        self.order = step_order(steps)
        self.combinations = combinations(document.matrix)
        self._steps = document.steps
        self.steps_needed = {name: step_needs(steps[name]) for name in document.steps}
        if of_some_items:
            self.order = self.steps_of_items()
            self.steps_needed = {name: self.steps_needed[name] for name in self.order}
        self.handing_on = frozenset(one for needs in self.steps_needed.values() for one in needs)
        self._rows = [(item, settings) for item in items for settings in self.combinations]
        self._writer = JobWriter(pipeline)
        self._everywhere = {"run": {"id": run.id, "date": run.date}, "env": run.env}
        self._new_only = document.source.new_only

    def steps_of_items(self) -> tuple[str, ...]:
        """List the steps for which no other item matters, in order."""
        kept: list[str] = []
        for step in self.order:
            if not self._steps[step].collect and set(self.steps_needed[step]) <= set(kept):
                kept.append(step)
        return tuple(kept)

    def nodes(self) -> Iterator[NodeId]:
        """Yield all nodes, each after those that it needs."""
        return (node for step in self.order for node in self.nodes_of(step))

    def nodes_of(self, step: str) -> Iterator[NodeId]:
        """Yield the nodes of one step."""
        return ((step, number) for number in range(self._count(step)))

    def item_name(self, node: NodeId) -> str:
        """Return the item that a node is for, as it is called in messages."""
        step, number = node
        return ALL_ITEMS if self._steps[step].collect else self._rows[number][0].name

    def needs(self, node: NodeId) -> tuple[NodeId, ...]:
        """List the nodes that have to be made first."""
        step, number = node
        return tuple(
            (needed, one)
            for needed in self.steps_needed[step]
            for one in self._joined(step, number, needed)
        )

    def dependents(self, node: NodeId) -> tuple[NodeId, ...]:
        """List the nodes that need this one."""
        step, number = node
        return tuple(
            (other, one)
            for other, needs in self.steps_needed.items()
            if step in needs
            for one in self._joined(step, number, other)
        )

    def position(self, node: NodeId) -> tuple[int, int]:
        """Return where a node's jobs stand among those of the run: by item, then by step."""
        step, number = node
        is_late = bool(self._steps[step].collect)
        return (len(self._rows) + number if is_late else number, self.order.index(step))

    def jobs(self, node: NodeId, made: Mapping[NodeId, Sequence[Made]]) -> Rendered:
        """Render a node from the outputs of all that it needs; no jobs where it does not apply.

        Where one of its needs made nothing (it did not apply, or fanned out over an empty list), it
        does not apply either; a collecting step takes what there is.
        """
        step, number = node
        collects = self._steps[step].collect
        outputs: dict[str, list[Made]] = {}
        for needed in self.steps_needed[step]:
            numbers = self._joined(step, number, needed)
            found = [one for each in numbers for one in self._taken(step, made[needed, each])]
            outputs[needed] = found
        if any(not found for found in outputs.values()):
            return Rendered((), ())
        scope: dict[str, Any] = {"item_name": self.item_name(node), "step": step}
        if collects:
            scope["items"] = [item.fields for item in self.items]
        else:
            scope["item"] = self._rows[number][0].fields
        known = scope | self._everywhere
        covered = self._covered(node)
        return self._writer.jobs(step, self._settings(node), known, outputs, covered)

    def blank(self, node: NodeId) -> Job:
        """Return a stand-in for the jobs of a node whose templates cannot be filled in."""
        return self._writer.blank(node[0], self.item_name(node), self._settings(node))

    def _settings(self, node: NodeId) -> Combination:
        step, number = node
        match self._steps[step].collect:
            case True:
                return {}
            case "items":
                return self.combinations[number]
            case _:
                return self._rows[number][1]

    def _covered(self, node: NodeId) -> Sequence[Row]:
        """Return the items with their combinations that a node is for."""
        step, number = node
        match self._steps[step].collect:
            case True:
                return self._rows
            case "items":
                return self._rows[number :: len(self.combinations)]
            case _:
                return self._rows[number : number + 1]

    def _taken(self, step: str, made: Sequence[Made]) -> Sequence[Made]:
        """Return what a step sees of one node: with `new_only`, what this run made of it."""
        is_old = self._new_only and all(one.is_old for one in made)
        return () if is_old and self._steps[step].collect else made

    def _count(self, step: str) -> int:
        match self._steps[step].collect:
            case True:
                return 1 if self.items else 0
            case "items":
                return len(self.combinations) if self.items else 0
            case _:
                return len(self._rows)

    def _joined(self, step: str, number: int, other: str) -> Sequence[int]:
        """Tell which nodes of `other` belong to one node of `step`, either way round."""
        mine, theirs = self._steps[step].collect, self._steps[other].collect
        combined = len(self.combinations)
        if mine is True or theirs is True:
            return range(self._count(other))
        if mine == theirs:
            return (number,)
        if mine:  # for each combination, of all items
            return range(number, len(self._rows), combined)
        return (number % combined,)


def combinations(matrix: Matrix) -> list[Combination]:
    """List all combinations, the last list changing fastest; one empty one for no matrix.

    `exclude` comes first, then `include`, as GitHub Actions has it: an included mapping is added to
    every combination of which it changes no value that came from a list; when there is none, it is
    a combination by itself.
    """
    crossed = [
        dict(zip(matrix.lists, values, strict=True))
        for values in itertools.product(*matrix.lists.values())
    ]
    kept = [one for one in crossed if not any(_fits(out, one) for out in matrix.exclude)]
    if not matrix.lists and matrix.include:
        kept = []
    made: list[Combination] = [dict(one) for one in kept]
    for added in matrix.include:
        mine = {name: value for name, value in added.items() if name in matrix.lists}
        hosts = [new for new, one in zip(made, kept, strict=False) if _fits(mine, one)]
        for host in hosts:
            host.update(added)
        if not hosts:
            made.append(dict(added))
    return made


def _fits(some: Combination, whole: Combination) -> bool:
    return all(
        name in whole and type(whole[name]) is type(value) and whole[name] == value
        for name, value in some.items()
    )
