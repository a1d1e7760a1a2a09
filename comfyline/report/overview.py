"""The contact sheet of a run: which outputs stand on it, and where it is stored."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from comfyline.errors import ComfylineError
from comfyline.job import Job, StoredOutput
from comfyline.media import media_type_of_name
from comfyline.report.contact_sheet import A_PAGE, Tile, page_name, write_pages
from comfyline.run import Outcome
from comfyline.storage.place import join
from comfyline.storage.places import Places


async def store_contact_sheet(
    name: str, outcomes: Sequence[Outcome], thumbnails: Path, places: Places
) -> tuple[str, ...]:
    """Store the sheet of all outputs of a run, made and reused; return the URIs of its pages.

    It lies in the folder of the run's first output, in the place of the sheet of an earlier run.
    `thumbnails` is the folder of small pictures named by SHA-256. Without outputs there is none.
    Raises `ComfylineError` or `OSError` when it cannot be stored.
    """
    shown = [one for one in outcomes if one.outputs and not one.is_old]
    if not shown:
        return ()
    folder = shown[0].job.placement.folder
    tiles = list(_tiles(shown, thumbnails))
    count = -(-len(tiles) // A_PAGE)
    uris = tuple(join(folder, page_name(name, page)) for page in range(1, count + 1))
    taken = {output.uri for one in shown for output in one.outputs}
    if taken & set(uris):
        raise ComfylineError(
            f"The contact sheet cannot be called {name}: that is an output's name.",
            hint="Give output.contact_sheet another name.",
        )
    place = places.of_folder(folder)
    with tempfile.TemporaryDirectory(prefix="comfyline-sheet-") as work:
        pages = write_pages(tiles, name, Path(work))
        for uri in uris:
            page = await asyncio.to_thread(next, pages)
            await place.put(page, uri, media_type_of_name(name) or "image/jpeg")
            await asyncio.to_thread(page.unlink)
    return uris


def _tiles(outcomes: Sequence[Outcome], thumbnails: Path) -> Iterator[Tile]:
    several = len({one.job.step for one in outcomes}) > 1
    for one in outcomes:
        for output in one.outputs:
            caption = _caption(one.job, output, with_step=several, alone=len(one.outputs) == 1)
            path = thumbnails / f"{output.sha256}.jpg"
            name = unquote(output.uri) if output.uri.startswith("file:") else output.uri
            yield Tile(caption, path if path.exists() else None, name.rpartition("/")[2])


def _caption(job: Job, output: StoredOutput, *, with_step: bool, alone: bool) -> str:
    told = [job.item, *([job.step] if with_step else []), *map(str, job.settings.values())]
    told += [] if job.part is None else [str(job.part + 1)]
    told += [] if alone else [f"#{output.index + 1}"]
    return " · ".join(told)
