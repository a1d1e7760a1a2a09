from pathlib import Path

import pytest
from PIL import Image

from comfyline.report import contact_sheet
from comfyline.report.contact_sheet import A_PAGE, Tile, page_name, write_pages
from comfyline.report.thumbnails import NEUTRAL


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
    gone = tmp_path / "gone.jpg"

    [page] = write_pages(
        [Tile("film", None, "film.mp4"), Tile("b", broken, "b.png"), Tile("c", gone, "c.png")],
        "sheet.png",
        tmp_path,
    )

    # Of four places of 256 × 144 three are taken, and captions and gaps are white.
    assert 0.4 < share(page, NEUTRAL) < 0.75


def test_many_pictures_go_on_further_pages(tmp_path: Path) -> None:
    thumbnail = red(tmp_path, (36, 18))
    tiles = [Tile(str(number), thumbnail, "a.png") for number in range(A_PAGE + 1)]

    pages = list(write_pages(tiles, "sheet.webp", tmp_path))

    assert [page.name for page in pages] == ["sheet.webp", "sheet-2.webp"]
    sizes = []
    for page in pages:
        with Image.open(page) as opened:
            sizes.append(opened.size)
    assert sizes[0][0] == 10 * 268 + 12
    assert sizes[1][0] == 268 + 12
    assert page_name("a.b.jpg", 3) == "a.b-3.jpg"


@pytest.mark.parametrize("has_font", [True, False])
@pytest.mark.parametrize(
    "caption", ["", "x" * 5000, "word " * 500, "ü · 图 · \n\t·", "\udcff", "שלום 👍"]
)
def test_any_caption_and_any_name_are_drawn(
    tmp_path: Path, caption: str, monkeypatch: pytest.MonkeyPatch, *, has_font: bool
) -> None:
    if not has_font:
        monkeypatch.setattr(contact_sheet, "_system_font", lambda: None)
        contact_sheet._font.cache_clear()
    try:
        assert len(list(write_pages([Tile(caption, None, caption)], "sheet.jpg", tmp_path))) == 1
    finally:
        contact_sheet._font.cache_clear()
