"""The run index: one flat JSON line an output, for DuckDB, pandas and whoever asks later.

`select * from 'index.jsonl'` in DuckDB, `pandas.read_json("index.jsonl", lines=True)` in pandas.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from comfyline.files import appearing_whole
from comfyline.job import Job, StoredOutput
from comfyline.redact import without_secrets
from comfyline.report.gallery import prompt_of
from comfyline.run import Outcome, Provenance
from comfyline.storage.place import local_path
from comfyline.storage.sidecar import SUFFIX, parsed

ITEM_COLUMN, MATRIX_COLUMN, LABEL_COLUMN = "item_", "matrix_", "label_"
"""What the columns of an item's fields, of matrix values and of labels begin with."""
_MAY_BE_ADDRESS = re.compile(r"[:?@]")


def write_index(
    path: Path, outcomes: Sequence[Outcome], run_id: str, made: Mapping[str, Provenance]
) -> None:
    """Write one line for every output of the run, made by it or there already, in the plan's order.

    The file appears whole or not at all. Raises `OSError`.
    """
    with appearing_whole(path) as part, part.open("w", encoding="utf-8") as file:
        for one in outcomes:
            measured = replace(one, outputs=tuple(map(_with_measures, one.outputs)))
            file.writelines(index_lines(measured, run_id, made))


def index_lines(outcome: Outcome, run_id: str, made: Mapping[str, Provenance]) -> Iterator[str]:
    """Yield one line for each output of one job, with its newline; none for a job without outputs.

    `made` tells of jobs by key. A job's cost is divided among its outputs, so that the column adds
    up; None is unknown. Of an item's fields those are told that are no lists or mappings.
    """
    job, one = outcome.job, made.get(outcome.key)
    cost = one.cost_usd if one else outcome.cost_usd
    for output in outcome.outputs:
        row = {
            "job": outcome.key,
            "pipeline": job.pipeline,
            "run_id": run_id,
            "item": job.item,
            "step": job.step,
            "index": output.index,
            "model": job.model_id,
            "prompt": prompt_of(job),
            "uri": output.uri,
            "sha256": output.sha256,
            "bytes": output.bytes,
            "media_type": output.media_type,
            "width": output.width,
            "height": output.height,
            "duration": output.duration,
            "cost_usd": None if cost is None else round(cost / len(outcome.outputs), 6),
            "request_id": one.request_id if one else outcome.request_id,
            "attempt": one.attempt if one else None,
            "created_at": one.stored_at if one else None,
            "reused": outcome.reused,
            **_columns(LABEL_COLUMN, job.labels),
            **_columns(MATRIX_COLUMN, job.settings),
            **_columns(ITEM_COLUMN, _fields(job)),
        }
        line = json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)
        # A file name that is not UTF-8 must not keep an index from being written.
        yield line.encode("utf-8", "replace").decode() + "\n"


def _with_measures(output: StoredOutput) -> StoredOutput:
    """Add to the output what its sidecar says, where an earlier run stored it on this machine."""
    if output.width or output.duration or not output.uri.startswith("file://"):
        return output
    try:
        told = parsed(local_path(f"{output.uri}{SUFFIX}").read_bytes()).output
    except (OSError, ValueError):
        return output
    return replace(output, width=told.width, height=told.height, duration=told.duration)


def _fields(job: Job) -> Mapping[str, Any]:
    fields = job.placement.scope.get("item")
    return fields if isinstance(fields, Mapping) else {}


def _columns(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{prefix}{name}": value
        for name, value in values.items()
        if not isinstance(value, Mapping | list | tuple)
    }


def _plain(value: Any) -> Any:
    match value:
        case str():
            # Looking for an address costs more than writing the line.
            return without_secrets(value) if _MAY_BE_ADDRESS.search(value) else value
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date():
            return value.isoformat()
        case _:
            return str(value)
