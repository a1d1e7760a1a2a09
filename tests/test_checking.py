import math
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from comfyline.checking import estimate_usd, identify
from comfyline.errors import InputInvalid, Problem
from comfyline.job import CheckedJob, Job, Placement
from comfyline.models.entry import ModelEntry
from comfyline.storage.bucket import Bucket
from comfyline.storage.origins import Origins

CAT = Path(__file__).parents[1] / "configs/samples/cat.jpg"
ENTRY = ModelEntry(
    model_id="acme/edit",
    base_price_usd=0.5,
    price_unit="output",
    input_schema={
        "type": "object",
        "required": ["prompt", "image_urls"],
        "properties": {
            "prompt": {"type": "string"},
            "image_urls": {"type": "array", "format": "image_uris", "maxItems": 3},
            "video": {"type": "string", "format": "video_uri"},
            "strength": {"type": "float", "maximum": 1},
            "options": {},
        },
    },
)


@pytest.fixture
async def origins() -> AsyncIterator[Origins]:
    async with Bucket(None, None, None) as bucket:
        yield Origins(bucket)


def job(folder: str = "out", variant: Any = None, **inputs: Any) -> Job:
    return Job(
        pipeline="p",
        item="cat",
        step="edit",
        model_id="acme/edit",
        inputs={"prompt": "a cat", "image_urls": [str(CAT)]} | inputs,
        placement=Placement(folder, "{{ index }}.{{ ext }}", {}),
        variant=variant,
        source="p.yaml:7:3",
    )


async def mistakes(one: Job, origins: Origins) -> tuple[Problem, ...]:
    with pytest.raises(InputInvalid) as caught:
        await identify(one, ENTRY, origins)
    return caught.value.problems


def checked(one: CheckedJob) -> tuple[str, ...]:
    return tuple(media.media_type for media in one.media)


async def test_a_right_job_gets_its_key_and_its_media_by_content(origins: Origins) -> None:
    found = await identify(job(), ENTRY, origins)

    [media] = found.media
    assert (media.pointer, media.origin) == (("image_urls", 0), str(CAT))
    assert (media.kind, media.media_type, media.bytes) == (
        "image",
        "image/jpeg",
        CAT.stat().st_size,
    )
    assert len(found.key) == 64
    assert (found.estimate_usd, estimate_usd(found, ENTRY)) == (None, 0.5)


async def test_the_key_follows_the_bytes_and_not_the_name(origins: Origins, tmp_path: Path) -> None:
    copy = tmp_path / "another #name?.bin"
    copy.write_bytes(CAT.read_bytes())
    changed = tmp_path / "cat.jpg"
    changed.write_bytes(CAT.read_bytes() + b"\0")
    keys = [
        (await identify(job(image_urls=[str(path)]), ENTRY, origins)).key
        for path in (CAT, copy, changed)
    ]

    assert keys[0] == keys[1] != keys[2]


async def test_all_mistakes_of_a_job_are_told_at_once_each_with_its_place(
    origins: Origins, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "empty.png").touch()
    paths = [str(tmp_path / name) for name in ("none.png", "note.txt", "empty.png")]

    told = await mistakes(
        job(folder="gs://b/o", image_urls=paths, video=str(CAT), strength=2, promt="x"), origins
    )

    unknown = "is no picture, video or sound that is known"
    instead = "use a folder or s3://bucket/prefix"
    assert [str(problem) for problem in told] == [
        "p.yaml:7:3: promt: the model has no such field; did you mean `prompt`?",
        "p.yaml:7:3: strength: 2 is too large; the most is 1",
        f"p.yaml:7:3: image_urls[0]: there is no file {paths[0]}; check the path and the source",
        f"p.yaml:7:3: image_urls[1]: {paths[1]} {unknown}, not image; by its content",
        f"p.yaml:7:3: image_urls[2]: {paths[2]} is empty",
        f"p.yaml:7:3: video: {CAT} is image/jpeg, not video; by its content",
        f"p.yaml:7:3: output.to: gs://b/o is no place for outputs; {instead}",
    ]


async def test_an_empty_media_field_is_told_once(origins: Origins) -> None:
    [problem] = await mistakes(job(image_urls=[""]), origins)

    assert problem == Problem("p.yaml:7:3: image_urls[0]", "is empty")


async def test_without_a_source_the_place_is_the_field(origins: Origins) -> None:
    bare = Job("p", "cat", "edit", "acme/edit", {"image_urls": []}, Placement("o", "n", {}))

    assert [problem.where for problem in await mistakes(bare, origins)] == ["prompt"]


@pytest.mark.parametrize(("kind", "most"), [("image", 50), ("video", 100)])
async def test_a_file_that_runcomfy_would_not_take_is_told_with_the_limit(
    origins: Origins, tmp_path: Path, kind: str, most: int
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.write(CAT.read_bytes())
        file.truncate(most * 2**20 + 1)
    inputs = {"image_urls": [str(large)]} if kind == "image" else {"video": str(large)}

    told = await mistakes(job(**inputs), origins)

    assert f"has {most}.1 MB; RunComfy takes at most {most} MB" in told[0].message


@pytest.mark.parametrize(
    ("path", "said"),
    [(".", ". is a folder; name a file in it"), ("/dev/null", "cannot be read: it is no ordinary")],
)
async def test_what_is_no_file_is_told_in_words(origins: Origins, path: str, said: str) -> None:
    [problem] = await mistakes(job(image_urls=[path]), origins)

    assert said in str(problem)
    assert "Errno" not in str(problem)


async def test_a_question_mark_in_a_local_name_is_shown_and_one_of_the_web_is_not(
    origins: Origins, files: str
) -> None:
    told = await mistakes(
        job(image_urls=["none?.png", f"{files}/none.jpg?secret", f"{files}/page.jpg?secret"]),
        origins,
    )

    assert told[0].message == "there is no file none?.png"
    assert told[1].message == f"there is no file {files}/none.jpg"
    assert told[2].message == f"{files}/page.jpg answers with a web page, not with a file"


async def test_what_the_web_gives_is_judged_by_its_content_as_well(
    origins: Origins, files: str
) -> None:
    [problem] = await mistakes(job(video=f"{files}/cat.jpg"), origins)

    assert problem.message == f"{files}/cat.jpg is image/jpeg, not video"
    found = await identify(job(image_urls=[f"{files}/cat.jpg?x=1"]), ENTRY, origins)
    assert checked(found) == ("image/jpeg",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan is not a number"),
        ([math.inf], "inf is not a number"),
        (date(2026, 1, 31), "a date cannot be sent"),
        ({1: "a"}, "the key 1 is not text"),
        ("\ud800", "not UTF-8"),
        ({"a": {1, 2}}, "a set cannot be sent"),
    ],
)
async def test_what_json_cannot_say_is_told_before_it_is_submitted(
    origins: Origins, value: Any, said: str
) -> None:
    [in_inputs] = await mistakes(job(options={"deep": value}), origins)
    [in_variant] = await mistakes(job(variant=value), origins)

    assert said in str(in_inputs)
    assert in_inputs.where.startswith("p.yaml:7:3: options.deep")
    assert said in str(in_variant)
    assert in_variant.where.startswith("p.yaml:7:3: variant")
