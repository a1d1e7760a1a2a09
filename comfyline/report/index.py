"""The run index: one flat JSON line an output, for DuckDB, pandas and whoever asks later.

`select * from 'index.jsonl'` in DuckDB, `pandas.read_json("index.jsonl", lines=True)` in pandas.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from comfyline.job import Job
from comfyline.redact import without_secrets
from comfyline.report.gallery import prompt_of
from comfyline.run import Outcome

ITEM_COLUMN, MATRIX_COLUMN = "item_", "matrix_"
"""What the columns of an item's fields and of matrix values begin with."""
_MAY_BE_ADDRESS = re.compile(r"[:?@]")


@dataclass(frozen=True, slots=True)
class Made:
    """How a job's outputs came about: by which attempt, for how much in US dollars, and when."""

    request_id: str | None
    attempt: int
    cost_usd: float | None
    created_at: datetime | None


def index_lines(outcome: Outcome, run_id: str, made: Mapping[str, Made]) -> Iterator[str]:
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
            "created_at": one.created_at if one else None,
            "reused": outcome.reused,
            **_columns(MATRIX_COLUMN, job.settings),
            **_columns(ITEM_COLUMN, _fields(job)),
        }
        line = json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)
        # A file name that is not UTF-8 must not keep an index from being written.
        yield line.encode("utf-8", "replace").decode() + "\n"


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
