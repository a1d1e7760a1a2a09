"""The contact sheet of a run: small pictures side by side, each with a line on what it is."""

import asyncio
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from unicodedata import combining, normalize
from urllib.parse import unquote

from PIL import Image, ImageDraw, ImageFont

from comfyline.errors import ComfylineError
from comfyline.media.types import media_type_of_name
from comfyline.report.thumbnails import NEUTRAL
from comfyline.run import Outcome
from comfyline.storage.place import join
from comfyline.storage.places import Places

A_PAGE = 100
"""Tiles on one page, so that a page of the largest size takes 25 MB in memory."""

_SIDE = 256
_GAP = 12
_LINES, _LINE = 2, 18
_GROUND, _INK = (255, 255, 255), (40, 40, 44)
_COLUMNS = 10
_TEXT = 14
_QUALITY = 88


@dataclass(frozen=True, slots=True)
class Tile:
    """One output: what is written below it, where its thumbnail is, its name if there is none."""

    caption: str
    thumbnail: Path
    name: str


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
            f"The contact sheet cannot be named {name}: that is the name of an output",
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


def page_name(name: str, page: int) -> str:
    """Return the file name of a page, counted from 1: `sheet.jpg`, `sheet-2.jpg`, `sheet-3.jpg`."""
    ending = PurePosixPath(name).suffix
    return name if page == 1 else f"{name.removesuffix(ending)}-{page}{ending}"


def write_pages(tiles: Sequence[Tile], name: str, folder: Path) -> Iterator[Path]:
    """Write the pages one after the other into a folder, in the format that the name says.

    A page is written only when it is asked for, and the folder has to be there.
    """
    for page, start in enumerate(range(0, len(tiles), A_PAGE), 1):
        path = folder / page_name(name, page)
        _page(tiles[start : start + A_PAGE]).save(path, quality=_QUALITY)
        yield path


def _tiles(outcomes: Sequence[Outcome], thumbnails: Path) -> Iterator[Tile]:
    several = len({one.job.step for one in outcomes}) > 1
    for one in outcomes:
        job = one.job
        told = [job.item, *([job.step] * several), *map(str, job.settings.values())]
        told += [] if job.part is None else [str(job.part + 1)]
        for output in one.outputs:
            number = [f"#{output.index + 1}"] if len(one.outputs) > 1 else []
            path = thumbnails / f"{output.sha256}.jpg"
            name = unquote(output.uri) if output.uri.startswith("file:") else output.uri
            yield Tile(" · ".join([*told, *number]), path, name.rpartition("/")[2])


def _page(tiles: Sequence[Tile]) -> Image.Image:
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    pictures = [_picture(tile) or _in_its_place(tile) for tile in tiles]
    rows = [range(at, min(at + columns, len(tiles))) for at in range(0, len(tiles), columns)]
    heights = [max(pictures[number].height for number in row) for row in rows]
    high = sum(heights) + len(rows) * (_GAP + _LINES * _LINE) + _GAP
    page = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, high), _GROUND)
    draw = ImageDraw.Draw(page)
    bottom = 0
    for row, height in zip(rows, heights, strict=True):
        bottom += _GAP + height
        for column, number in enumerate(row):
            middle = _GAP + column * (_SIDE + _GAP) + _SIDE // 2
            picture = pictures[number]
            page.paste(picture, (middle - picture.width // 2, bottom - picture.height))
            for line, text in enumerate(_lines(tiles[number].caption)):
                at = (middle, bottom + line * _LINE + _LINE // 2)
                draw.text(at, text, _INK, font(), anchor="mm")
        bottom += _LINES * _LINE
    return page


def _picture(tile: Tile) -> Image.Image | None:
    try:
        with Image.open(tile.thumbnail, formats=["JPEG"]) as stored:
            stored.draft("RGB", (_SIDE, _SIDE))
            picture = stored.convert("RGB")
    except OSError:
        return None
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def _in_its_place(tile: Tile) -> Image.Image:
    """Draw a grey tile with the file's name, for a video and for what is not on this machine."""
    blank = Image.new("RGB", (_SIDE, _SIDE * 9 // 16), NEUTRAL)
    name = _shortened(_written(tile.name), _SIDE - 2 * _GAP)
    middle = (blank.width // 2, blank.height // 2)
    ImageDraw.Draw(blank).text(middle, name, _INK, font(), anchor="mm")
    return blank


def _lines(caption: str) -> list[str]:
    """Break the caption between words into as many lines as there are; the last one is cut."""
    lines = [""]
    for word in _written(caption).split():
        longer = f"{lines[-1]} {word}".strip()
        if len(lines) == _LINES or not lines[-1] or _length(longer) <= _SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_shortened(line, _SIDE) for line in lines]


def _length(text: str) -> float:
    return font().getlength(text)


def _shortened(text: str, width: int) -> str:
    """Cut the text so that it fits, by its length in pixels."""
    if _length(text) <= width:
        return text
    # No letter is narrower than a pixel.
    text = text[:width]
    while text and _length(f"{text.rstrip()}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _written(text: str) -> str:
    """Put the text on one line and in signs that the font has, as far as it can be told."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if system_font() is not None:
        return text
    # Pillow's own font has plain letters only, and draws a box for every other sign.
    return "".join(sign for sign in normalize("NFKD", text) if not combining(sign))


@cache
def system_font() -> ImageFont.FreeTypeFont | None:
    """Return a font of this machine, None when none of the usual ones is there."""
    for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf"):
        with suppress(OSError):
            return ImageFont.truetype(name, _TEXT)
    return None


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of captions: this machine's, else Pillow's own."""
    return system_font() or ImageFont.load_default(_TEXT)
