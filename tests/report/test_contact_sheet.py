from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import ComfylineError, InputInvalid
from comfyline.job import Job, JobState, Placement, StoredOutput
from comfyline.pipeline.document import load_pipeline
from comfyline.report import contact_sheet
from comfyline.report.contact_sheet import (
    A_PAGE,
    Tile,
    page_name,
    store_contact_sheet,
    write_pages,
)
from comfyline.report.thumbnails import NEUTRAL
from comfyline.run import Outcome
from comfyline.services import open_places


def red(folder: Path, size: tuple[int, int] = (360, 180)) -> Path:
    path = folder / f"{size[0]}x{size[1]}.jpg"
    Image.new("RGB", size, (200, 30, 30)).save(path)
    return path


def share(page: Path, colour: tuple[int, int, int], left: float = 0, right: float = 1) -> float:
    """How much of a part of the page is about of a colour."""
    with Image.open(page) as opened:
        picture = opened.convert("RGB")
    part = picture.crop((int(left * picture.width), 0, int(right * picture.width), picture.height))
    near = [
        number
        for number, one in part.getcolors(1 << 24) or ()
        if all(abs(mine - other) < 20 for mine, other in zip(one, colour, strict=True))
    ]
    return sum(near) / (part.width * part.height)


def test_pictures_stand_side_by_side_above_their_captions(tmp_path: Path) -> None:
    wide, tall = red(tmp_path), red(tmp_path, (90, 360))
    tiles = [Tile("cat · 16:9", wide, "a.png"), Tile("cat · 1:4", tall, "b.png")]

    [page] = write_pages(tiles, "sheet.jpg", tmp_path)
    [without] = write_pages([Tile("", one.thumbnail, "") for one in tiles], "bare.jpg", tmp_path)

    assert page == tmp_path / "sheet.jpg"
    with Image.open(page) as opened:
        assert (opened.format, opened.width) == ("JPEG", 2 * 268 + 12)
    red_left, red_right = (share(page, (200, 30, 30), *part) for part in ((0, 0.5), (0.5, 1)))
    assert red_left > red_right > 0.1
    assert share(page, (40, 40, 44)) > share(without, (40, 40, 44)) == 0


def test_what_has_no_thumbnail_is_a_grey_tile_with_its_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    tiles = [Tile(name, path, name) for name, path in (("a", tmp_path / "no"), ("b", broken))]

    [page] = write_pages(tiles, "sheet.png", tmp_path)

    # Two places of 256 × 144; captions and gaps are white.
    assert 0.6 < share(page, NEUTRAL) < 0.8


def test_many_pictures_go_on_further_pages(tmp_path: Path) -> None:
    thumbnail = red(tmp_path, (36, 18))
    tiles = [Tile(str(number), thumbnail, "a.png") for number in range(A_PAGE + 1)]

    widths = {}
    for page in write_pages(tiles, "sheet.webp", tmp_path):
        with Image.open(page) as opened:
            widths[page.name] = opened.width

    assert widths == {"sheet.webp": 10 * 268 + 12, "sheet-2.webp": 268 + 12}
    assert page_name("a.b.jpg", 3) == "a.b-3.jpg"


@pytest.mark.parametrize("has_font", [True, False])
def test_any_caption_and_any_name_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_font: bool
) -> None:
    if not has_font:
        monkeypatch.setattr(contact_sheet, "system_font", lambda: None)
    contact_sheet.font.cache_clear()
    captions = ["", "x" * 5000, "word " * 500, "ü · 图 · \n\t·", "\udcff", "שלום 👍"]
    tiles = [Tile(caption, tmp_path / "none", caption) for caption in captions]
    try:
        assert len(list(write_pages(tiles, "sheet.jpg", tmp_path))) == 1
    finally:
        contact_sheet.font.cache_clear()


def outcome(folder: Path, name: str, *, outputs: int = 1, is_old: bool = False) -> Outcome:
    placement = Placement(str(folder), "x", {})
    job = Job("p", name, "edit", "m", {}, placement, settings={"ratio": "1:1"})
    stored = tuple(
        StoredOutput(
            index, (folder / f"{name}-{index}.png").as_uri(), f"{name}{index}", 1, "image/png"
        )
        for index in range(outputs)
    )
    return Outcome(job, name, JobState.PERSISTED, outputs=stored, is_old=is_old)


async def store(
    thumbnails: Path, outcomes: Sequence[Outcome], name: str = "sheet.jpg"
) -> tuple[str, ...]:
    async with open_places(NO_STORAGE) as places:
        return await store_contact_sheet(name, outcomes, thumbnails, places)


async def test_all_outputs_of_a_run_are_on_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, str]] = []

    def keep(some: Sequence[Tile], name: str, work: Path) -> Iterator[Path]:
        drawn.extend((one.caption, one.name) for one in some)
        return write_pages(some, name, work)

    monkeypatch.setattr(contact_sheet, "write_pages", keep)
    folder = tmp_path / "out"
    outcomes = [
        Outcome(outcome(folder, "dog").job, "dog", JobState.FAILED),
        outcome(folder, "cat"),
        outcome(tmp_path / "yesterday", "old", is_old=True),
        outcome(folder, "ä b", outputs=2),
    ]

    assert await store(tmp_path, outcomes) == ((folder / "sheet.jpg").as_uri(),)

    assert [path.name for path in folder.iterdir()] == ["sheet.jpg"]
    assert drawn == [
        ("cat · 1:1", "cat-0.png"),
        ("ä b · 1:1 · #1", "ä b-0.png"),
        ("ä b · 1:1 · #2", "ä b-1.png"),
    ]


async def test_a_sheet_takes_the_place_of_an_earlier_one_and_never_of_an_output(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    assert await store(tmp_path, [outcome(folder, "cat", outputs=0)]) == ()
    assert not folder.exists()
    outcomes = [outcome(folder, "cat")]
    await store(tmp_path, outcomes)
    first = (folder / "sheet.jpg").read_bytes()

    await store(tmp_path, [*outcomes, outcome(folder, "dog")])

    assert (folder / "sheet.jpg").read_bytes() != first
    with pytest.raises(ComfylineError, match=r"cannot be named cat-0\.png"):
        await store(tmp_path, outcomes, "cat-0.png")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["sheet", "a/sheet.jpg", "{{ run.date }}.jpg", "sheet.gif", ".jpg"]
)
def test_a_sheet_is_called_by_a_plain_name_of_a_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: a\nsource: {items: []}\nsteps: {e: {model: m, input: {}}}\n"
        f"output: {{to: o, contact_sheet: '{name}'}}\n"
    )

    with pytest.raises(InputInvalid, match=r"4:\d+: .*should be a plain file name that ends with"):
        load_pipeline(path)
