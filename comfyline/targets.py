"""Where each output of a job goes: the rendered folder and a name that is its own."""

import hashlib
import json
from collections.abc import Sequence

from comfyline.errors import InputInvalid
from comfyline.job import FetchedFile, Placement, StoredOutput
from comfyline.media import extension
from comfyline.pipeline.naming import output_name
from comfyline.storage.place import join

_TELLING = ("item_name", "item", "matrix", "step")
"""What tells one job of a pipeline from another, and is the same in every run."""


def target_uris(
    placement: Placement, outputs: Sequence[FetchedFile | StoredOutput]
) -> tuple[str, ...]:
    """The URI of each output, in order; the same for the same placement and outputs.

    A model may make more outputs than the plan could know of. What was paid for is overwritten
    neither by its sibling nor by another job: the first output of a name keeps it, for the plan
    has seen to it that it is no other job's, and every further one gets the job's mark and its
    index besides.
    """
    taken: set[str] = set()
    uris = []
    for output in outputs:
        ending = extension(output.media_type)
        name = _planned_name(placement, output.index, ending)
        if name.casefold() in taken:
            name = _own_name(placement, name, output.index, ending)
        taken.add(name.casefold())
        uris.append(join(placement.folder, name))
    return tuple(uris)


def _planned_name(placement: Placement, index: int, ending: str) -> str:
    try:
        return output_name(placement, index, ending)
    except InputInvalid:
        if index == 0:
            raise
        # A template may know only as many names as outputs were expected.
        return output_name(placement, 0, ending)


def _own_name(placement: Placement, name: str, index: int, ending: str) -> str:
    told = {key: placement.scope.get(key) for key in _TELLING}
    mark = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{name.removesuffix(f'.{ending}')}-{mark}-{index}.{ending}"
