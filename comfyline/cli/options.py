"""Options that several commands share, each written once."""

from typing import Annotated

from cyclopts import Parameter

Profile = Annotated[
    str, Parameter(name="--profile", help="Where it runs: a name in configs/profiles/, or a file.")
]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set", negative="", help="Override the YAML: limits.in_flight=4. May be repeated."
    ),
]
Limit = Annotated[int | None, Parameter(name="--limit", help="At most so many items.")]
Refresh = Annotated[
    bool,
    Parameter(name="--refresh", negative="", help="Make again what is there; pays again."),
]
MaxCost = Annotated[
    float | None, Parameter(name="--max-cost", help="Spend at most so many US dollars.")
]
Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="One JSON value on stdout, all else on stderr."),
]
