"""The matrix: lists of values whose combinations are crossed with every item."""

import itertools
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from comfyline.pipeline.sections import Identifier, Scalar, Section

Combination = dict[str, Any]


def _distinct(values: list[Any]) -> list[Any]:
    # By type too: in Python `1`, `1.0` and `true` are equal.
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError("names a value twice, which would make the same job twice")
    return values


class Matrix(Section):
    """Lists of values by name; `include` and `exclude` mend their combinations."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[
        Identifier, Annotated[list[Scalar], Field(min_length=1), AfterValidator(_distinct)]
    ]

    include: Annotated[
        list[dict[Identifier, Scalar]],
        Field(
            description="Further values: added to each combination that they fit without changing "
            "a value of the lists, else a combination of their own."
        ),
    ] = []  # noqa: RUF012  # pydantic copies a default
    exclude: Annotated[
        list[dict[Identifier, Scalar]],
        Field(description="Combinations to leave out; one that names fewer values fits several."),
    ] = []  # noqa: RUF012  # pydantic copies a default

    @property
    def lists(self) -> dict[str, list[Any]]:
        """The lists by name, in the order in which they are written."""
        return self.__pydantic_extra__ or {}


def combinations(matrix: Matrix) -> list[Combination]:
    """All combinations, the last list changing fastest; one empty combination for no matrix.

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
