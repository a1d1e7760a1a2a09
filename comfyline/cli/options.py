"""Options that several commands share, each written once."""

from typing import Annotated

from cyclopts import Parameter

Profile = Annotated[
    str,
    Parameter(
        name="--profile",
        env_var="COMFYLINE_PROFILE",
        help="Where it runs: a name in configs/profiles/, or a file.",
    ),
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
Unchecked = Annotated[
    bool,
    Parameter(
        name="--unchecked",
        negative="",
        help="Submit also to a model whose schema is nowhere to be had: nothing of its inputs is "
        "checked, its price is unknown, and only @file and s3:// values are taken for media.",
    ),
]
MaxCost = Annotated[
    float | None, Parameter(name="--max-cost", help="Spend at most so many US dollars.")
]
AllowUnknownCost = Annotated[
    bool,
    Parameter(
        name="--allow-unknown-cost",
        negative="",
        help="Under a cost limit, submit also what has no known price.",
    ),
]
Verify = Annotated[
    bool,
    Parameter(
        name="--verify",
        negative="",
        help="Count an output as there only when every byte of it is what was stored.",
    ),
]
Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="One JSON value on stdout, all else on stderr."),
]
