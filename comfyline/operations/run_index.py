"""Writes the index of a run, a few jobs at a time: ten thousand take no more memory than ten."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comfyline.files import appearing_whole
from comfyline.job import StoredOutput
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Provenance
from comfyline.report.index import Made, index_lines
from comfyline.run import Outcome
from comfyline.storage.place import local_path
from comfyline.storage.sidecars import SUFFIX, parsed

_JOBS_AT_A_TIME = 500


async def write_index(path: Path, outcomes: Sequence[Outcome], run_id: str, ledger: Ledger) -> None:
    """Write one line for every output of the run, made by it or there already, in the plan's order.

    The file appears whole or not at all. Raises `ComfylineError` when the ledger cannot be read,
    and `OSError`.
    """
    with appearing_whole(path) as part:
        for start in range(0, len(outcomes), _JOBS_AT_A_TIME):
            some = [one for one in outcomes[start : start + _JOBS_AT_A_TIME] if one.outputs]
            told = await ledger.provenance([*{one.key: None for one in some}])
            made = {key: _made(one) for key, one in told.items()}
            await asyncio.to_thread(_append, part, some, run_id, made)
        await asyncio.to_thread(_append, part, [], run_id, {})


def _append(path: Path, outcomes: Sequence[Outcome], run_id: str, made: Mapping[str, Made]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for one in outcomes:
            outputs = tuple(map(_with_measures, one.outputs))
            file.writelines(index_lines(replace(one, outputs=outputs), run_id, made))


def _with_measures(output: StoredOutput) -> StoredOutput:
    """Add to the output what its sidecar says, where an earlier run stored it on this machine."""
    if output.width or output.duration or not output.uri.startswith("file://"):
        return output
    try:
        told = parsed(local_path(f"{output.uri}{SUFFIX}").read_bytes()).output
    except (OSError, ValueError):
        return output
    return replace(output, width=told.width, height=told.height, duration=told.duration)


def _made(told: Provenance) -> Made:
    return Made(told.request_id, told.attempt, told.cost_usd, told.stored_at)
