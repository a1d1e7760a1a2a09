from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyline.errors import ComfylineError, InputInvalid
from comfyline.job import Job, JobState, Placement, StoredOutput
from comfyline.pipeline.document import load_pipeline
from comfyline.report import contact_sheet
from comfyline.report.overview import store_contact_sheet
from comfyline.run import Outcome
from comfyline.storage.bucket import Bucket
from comfyline.storage.places import Places


def outcome(folder: Path, name: str, *, outputs: int = 1, is_old: bool = False) -> Outcome:
    job = Job(
        pipeline="p",
        item=name,
        step="edit",
        model_id="m",
        inputs={},
        placement=Placement(str(folder), "x", {}),
        settings={"ratio": "1:1"},
    )
    stored = tuple(
        StoredOutput(
            index, (folder / f"{name}-{index}.png").as_uri(), f"{name}{index}", 1, "image/png"
        )
        for index in range(outputs)
    )
    return Outcome(job, name, JobState.PERSISTED, outputs=stored, is_old=is_old)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, str]]:
    """What stands on the pages: caption, whether there is a picture, name."""
    tiles: list[tuple[str, bool, str]] = []
    draw = contact_sheet._page

    def keep(some: Sequence[Any]) -> Image.Image:
        tiles.extend((one.caption, one.thumbnail is not None, one.name) for one in some)
        return draw(some)

    monkeypatch.setattr(contact_sheet, "_page", keep)
    return tiles


async def store(
    thumbnails: Path, outcomes: Sequence[Outcome], name: str = "sheet.jpg"
) -> tuple[str, ...]:
    async with Bucket(None, None, None) as bucket:
        return await store_contact_sheet(name, outcomes, thumbnails, Places(bucket))


async def test_all_outputs_of_a_run_are_on_one_picture(
    tmp_path: Path, drawn: list[tuple[str, bool, str]]
) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "cat0.jpg")
    folder = tmp_path / "out"
    failed = Outcome(outcome(folder, "dog").job, "dog", JobState.FAILED)
    outcomes = [
        failed,
        outcome(folder, "cat"),
        outcome(tmp_path / "yesterday", "old", is_old=True),
        outcome(folder, "ä b", outputs=2),
    ]

    assert await store(tmp_path, outcomes) == ((folder / "sheet.jpg").as_uri(),)

    assert [path.name for path in folder.iterdir()] == ["sheet.jpg"]
    assert drawn == [
        ("cat · 1:1", True, "cat-0.png"),
        ("ä b · 1:1 · #1", False, "ä b-0.png"),
        ("ä b · 1:1 · #2", False, "ä b-1.png"),
    ]


async def test_a_sheet_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    outcomes = [outcome(tmp_path / "out", "cat")]
    await store(tmp_path, outcomes)
    first = (tmp_path / "out/sheet.jpg").read_bytes()

    await store(tmp_path, [*outcomes, outcome(tmp_path / "out", "dog")])

    assert (tmp_path / "out/sheet.jpg").read_bytes() != first
    assert len(list((tmp_path / "out").iterdir())) == 1


async def test_a_run_without_outputs_has_no_sheet(tmp_path: Path) -> None:
    assert await store(tmp_path, [outcome(tmp_path / "out", "cat", outputs=0)]) == ()
    assert not (tmp_path / "out").exists()


async def test_a_sheet_never_takes_the_place_of_an_output(tmp_path: Path) -> None:
    with pytest.raises(ComfylineError, match=r"cannot be called cat-0\.png"):
        await store(tmp_path, [outcome(tmp_path, "cat")], "cat-0.png")
    assert not (tmp_path / "cat-0.png").exists()


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
