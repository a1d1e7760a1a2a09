"""A paid output makes room: it lies under a version of its name before anything takes the name.

In this order, so that whoever dies here leaves it with a name, and the ledger never names a place
where it is not: copy, its sidecar, ledger. Only then may the old name be written over. Every step
finds what was done before, so whoever comes next finishes it.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from comfyline.errors import Altered, NameTaken, Unreachable
from comfyline.ledger.ledger import Ledger
from comfyline.operations.overwrite import Former
from comfyline.pipeline.output_names import MOST_VERSIONS, versions
from comfyline.storage.place import Place
from comfyline.storage.sidecars import SUFFIX, named, read_sidecar, read_text


async def move_aside(
    former: Former,
    wanted: str,
    siblings: Sequence[str],
    place: Place,
    ledger: Ledger,
    draft: Path,
) -> str:
    """Give `former` the first free version of `wanted` as its name, and return it.

    `draft` is a local path for the bytes on their way. Raises `Unreachable`: then the output still
    has the name that it had.
    """
    output = former.output
    for uri in islice(versions(wanted), 1, MOST_VERSIONS):
        if uri in siblings or uri == output.uri:
            continue
        owner = (await ledger.stored_at([uri])).get(uri)
        if owner is not None and owner.id != former.attempt_id:
            continue
        if not await _copied(former, uri, place, draft):
            continue
        if former.attempt_id is not None:
            await ledger.moved(former.attempt_id, output.uri, uri)
        return uri
    raise NameTaken(
        f"{output.uri} was paid for and has no free name to move to",
        hint="Clear up its folder, then run again: the new result is kept until then.",
    )


async def _copied(former: Former, uri: str, place: Place, draft: Path) -> bool:
    """Tell whether the output and its sidecar lie at `uri` now; not where something else is."""
    output, beside = former.output, f"{uri}{SUFFIX}"
    size, described = await place.sizes([uri, beside])
    try:
        sidecar = await read_sidecar(place, beside) if described is not None else None
    except ValueError:
        return False
    if sidecar and (sidecar.job, sidecar.request_id) != (former.key, former.request_id):
        return False
    if size is None:
        try:
            await _copy(former, uri, place, draft)
        except FileExistsError:
            return False
    elif size != output.bytes or await place.sha256(uri) != output.sha256:
        return False
    if sidecar is None and (told := await read_text(place, f"{output.uri}{SUFFIX}")):
        # Whoever was faster wrote the same.
        await place.put_text(named(told, uri.rpartition("/")[2]), beside, "application/json")
    return True


async def _copy(former: Former, uri: str, place: Place, draft: Path) -> None:
    output = former.output
    labels = {"comfyline-job": former.key, "sha256": output.sha256}
    labels |= {"comfyline-request": former.request_id} if former.request_id else {}
    try:
        await place.get(output.uri, draft)
        await place.put(
            draft, uri, output.media_type, sha256=output.sha256, metadata=labels, new=True
        )
    except (Altered, FileNotFoundError):
        raise Unreachable(
            f"{output.uri} was changed while it was moved aside", hint="Run again."
        ) from None
    finally:
        await asyncio.to_thread(draft.unlink, missing_ok=True)
    if await place.size(uri) != output.bytes:
        raise Unreachable(f"{uri} was written and is not there in full")
