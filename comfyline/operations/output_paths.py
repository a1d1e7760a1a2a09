"""Where each output of a job goes: the rendered folder and a name that is its own."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import PurePosixPath

from comfyline.errors import InputInvalid
from comfyline.job import FetchedFile, Placement, StoredOutput
from comfyline.media.types import extension
from comfyline.pipeline.output_names import output_name
from comfyline.storage.place import join

_TELLING = ("item_name", "item", "matrix", "step")
"""What tells one job of a pipeline from another, and is the same in every run."""
_FIRST_VERSION = 2
MOST_VERSIONS = 1000
"""How many names of an output are tried."""
_NUMBER = re.compile(r"[2-9]|[1-9][0-9]{1,5}", re.ASCII)


def target_uris(
    placement: Placement, outputs: Sequence[FetchedFile | StoredOutput]
) -> tuple[str, ...]:
    """Return the URI of each output, in order; the same for the same placement and outputs.

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


def versions(uri: str) -> Iterator[str]:
    """Yield the URI itself, then `name-2.png`, `name-3.png` and so on beside it, without an end."""
    yield uri
    folder, slash, name = uri.rpartition("/")
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    for number in count(_FIRST_VERSION):
        yield f"{folder}{slash}{stem}-{number}{suffix}"


def is_version(uri: str, of: str) -> bool:
    """Tell whether a URI is a numbered version of another one, and not that one itself."""
    suffix = PurePosixPath(of.rpartition("/")[2]).suffix
    stem = of.removesuffix(suffix)
    number = uri.removesuffix(suffix).removeprefix(f"{stem}-")
    return bool(_NUMBER.fullmatch(number)) and uri == f"{stem}-{number}{suffix}"


def own_names(recorded: Sequence[str], target: str) -> tuple[str, ...]:
    """Return where an output that was to go to `target` lies, of the places recorded for it.

    That is `target` itself, else its versions: there it went when another's file was in the way, or
    when a newer output took the name.
    """
    if target in recorded:
        return (target,)
    return tuple(uri for uri in recorded if is_version(uri, target))


def possible_names(placement: Placement, index: int, ending: str) -> tuple[str, ...]:
    """Return the file names an output of this index and extension may have, without versions."""
    planned = _planned_name(placement, index, ending)
    return planned, _own_name(placement, planned, index, ending)


def unversioned(name: str) -> str:
    """Return a file name without the number of its version; the same where it has none."""
    suffix = PurePosixPath(name).suffix
    stem, dash, number = name.removesuffix(suffix).rpartition("-")
    return f"{stem}{suffix}" if dash and _NUMBER.fullmatch(number) else name


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
    if part := placement.scope.get("each_index"):
        told["each_index"] = part
    mark = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{name.removesuffix(f'.{ending}')}-{mark}-{index}.{ending}"
