"""generate: one ad-hoc request."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from comfyline.cli import options
from comfyline.cli.flow_run import run_and_report
from comfyline.errors import InputInvalid, Problem, UsageError
from comfyline.pipeline.labels import check_labels
from flows.parameters import kept_out_of_prefect


async def generate(
    model_id: Annotated[str, Parameter(help="The model, as the catalogue names it.")],
    /,
    *,
    inputs: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--input", "-i"],
            help="key=value; @photo.jpg as the value takes a file; repeated keys make a list.",
        ),
    ] = (),
    input_file: Annotated[
        Path | None, Parameter(help="A JSON file with the inputs; -i overrides it.")
    ] = None,
    output: Annotated[
        str, Parameter(name="--to", help="Where the outputs go: a folder or s3://…")
    ] = "outputs/generate",
    profile: options.Profile = "sandbox",
    refresh: options.Refresh = False,
    max_cost: options.MaxCost = None,
    allow_unknown_cost: options.AllowUnknownCost = False,
    unchecked: options.Unchecked = False,
    labels: Annotated[
        tuple[str, ...], Parameter(name="--label", help="Whose it is, for reports: client=acme.")
    ] = (),
    json_output: options.Json = False,
) -> int:
    """Make one ad-hoc request through the same six tasks.

    Example: comfyline generate google/nano-banana/pro/edit -i prompt="at night" -i
    image_urls=@photo.jpg
    """

    async def read() -> tuple[dict[str, Any], dict[str, str]]:
        if not output.strip():
            raise UsageError("--to names no folder", hint="Leave it out, or name one.")
        return _read_inputs(inputs, input_file), _read_labels(labels)

    async def flow(given: tuple[dict[str, Any], dict[str, str]]) -> Any:
        from flows.generate import generate as generate_flow

        values, named = given
        with kept_out_of_prefect(inputs=values, output=output) as stored:
            return await generate_flow(
                model_id=model_id,
                profile=profile,
                refresh=refresh,
                max_cost_usd=max_cost,
                allow_unknown_cost=allow_unknown_cost,
                unchecked=unchecked,
                labels=named,
                return_state=True,
                **stored,
            )

    return await run_and_report("generate", profile, read, flow, json_output=json_output)


def _read_inputs(pairs: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Read the JSON file, then the key=value pairs; repeated keys make lists."""
    inputs: dict[str, Any] = _read_file(file) if file else {}
    named: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"-i {pair!r} is not key=value", hint="Write -i prompt='a red door'.")
        named.setdefault(key, []).append(value)
    return inputs | {key: many if len(many) > 1 else many[0] for key, many in named.items()}


def _read_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    wrong = [f"--label {pair} is not name=value" for pair in pairs if "=" not in pair]
    split = [pair.partition("=")[::2] for pair in pairs]
    counted = Counter(name for name, _ in split)
    wrong += [
        f"--label {name}=… is given {times} times" for name, times in counted.items() if times > 1
    ]
    if wrong:
        raise UsageError("; ".join(wrong), hint="Write each label once: --label client=acme.")
    return check_labels(dict(split))


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputInvalid([Problem(str(file), f"cannot be read as JSON: {error}")]) from error
    if not isinstance(content, dict):
        raise InputInvalid([Problem(str(file), "is not a JSON object", 'write {"prompt": "…"}')])
    return content
