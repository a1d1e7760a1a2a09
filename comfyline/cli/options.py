"""Arguments and options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

PipelineFile = Annotated[Path, Parameter(help="The pipeline's YAML file.")]
JobKey = Annotated[
    str, Parameter(help="Job keys, or as many of their first characters as tell them apart.")
]
Profile = Annotated[
    str,
    Parameter(
        env_var="COMFYLINE_PROFILE",
        help="Where it runs: a name in configs/profiles/, or a file.",
    ),
]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(name="--set", help="Override the YAML: limits.in_flight=4. May be repeated."),
]
Limit = Annotated[
    int | None, Parameter(help="At most this many items.", validator=validators.Number(gte=1))
]
Refresh = Annotated[bool, Parameter(help="Make again what is there; pays again.")]
Unchecked = Annotated[
    bool,
    Parameter(
        help="Submit to a model without a schema as well: its inputs are not checked, its price "
        "is unknown, and only @file and s3:// values count as media.",
    ),
]
MaxCost = Annotated[
    float | None,
    Parameter(help="Spend at most this many US dollars.", validator=validators.Number(gte=0)),
]
AllowUnknownCost = Annotated[
    bool, Parameter(help="Under a cost limit, also submit jobs whose price is unknown.")
]
Verify = Annotated[
    bool, Parameter(help="Reuse an output only when every byte of it is what was stored.")
]
Shards = Annotated[
    int | None,
    Parameter(
        help="Share the run among the workers of the deployment `pipeline`, in so many parts; "
        "1 for this process alone.",
        validator=validators.Number(gte=1),
    ),
]
Json = Annotated[
    bool, Parameter(name="--json", help="One JSON value on stdout, all else on stderr.")
]
RunId = Annotated[str | None, Parameter(help="Only what this run asked for.")]
PipelineName = Annotated[str | None, Parameter(help="Only jobs of this pipeline.")]
