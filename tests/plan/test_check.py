import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import InputInvalid, Unreachable
from comfyline.job import CheckedJob, FileInfo, Job, MediaInfo, Placement, Preparation
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.plan.check import validate_job, validate_pairs
from comfyline.storage.fingerprints import ReadError
from comfyline.storage.inputs import Inputs
from comfyline.storage.s3 import Bucket
from tests.media.clips import bomb, clip, heic, picture
from tests.odd_json import JSON, SCHEMAS

CAT = Path(__file__).parents[2] / "configs/samples/cat.jpg"
RULES = [
    {"validation_rule": "file_size_mb<", "validation_value": 30, "validation_error": "Too big."},
    {"validation_rule": "width/height<", "validation_value": 1, "validation_error": "Too wide."},
    {"validation_rule": "height_pixels>", "validation_value": 50, "validation_error": "Too low."},
    {"validation_rule": "frames<", "validation_value": 50, "validation_error": "Too many."},
]
SHORT = [{"validation_rule": "duration<", "validation_value": 2}]
SMALL = [
    {"validation_rule": "max_side<=", "validation_value": 40},
    {"validation_rule": "width_pixels>", "validation_value": 14},
]
ENTRY = ModelEntry(
    model_id="acme/edit",
    input_schema={
        "properties": {
            "prompt": {"type": "string"},
            "image": {"type": "string", "format": "image_uri"},
            "images": {"type": "array", "format": "image_uris", "maxItems": 3},
            "ruled": {"format": "image_uri", "validations": RULES},
            "small": {"format": "image_uri", "validations": SMALL},
            "scan": {"format": "image_uri", "description": "A picture: JPEG, PNG or TIFF."},
            "film": {"format": "video_uri"},
            "clip": {"format": "video_uri", "validations": SHORT},
            "sound": {"format": "audio_uri"},
            "either": {"anyOf": [{"format": "image_uri"}, {"format": "video_uri"}]},
            "strength": {"type": "float", "maximum": 1},
            "options": {},
        },
    },
)
BY_CONTENT = "by its content, regardless of its name"
DOWNSCALE = "write `downscale: true` under the step to submit a smaller copy"


@pytest.fixture
async def reader() -> AsyncIterator[Inputs]:
    async with Bucket(NO_STORAGE) as bucket:
        yield Inputs(bucket)


def job(folder: str = "out", source: str = "", **inputs: Any) -> Job:
    placement = Placement(folder, "{{ index }}.{{ ext }}", {})
    return Job("p", "cat", "edit", "acme/edit", inputs, placement, source=source)


def prepared(preparation: Preparation, **inputs: Any) -> Job:
    return replace(job(**inputs), preparation=preparation)


async def right(one: Job, reader: Inputs) -> CheckedJob:
    return await validate_job(one, ENTRY, reader)


async def told(one: Job, reader: Inputs, entry: ModelEntry = ENTRY) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        await validate_job(one, entry, reader)
    return [str(problem) for problem in caught.value.problems]


def write(folder: Path, **files: bytes) -> list[str]:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return [str(folder / name.replace("_", ".")) for name in files]


async def test_a_right_job_gets_its_key_and_its_media_by_content(
    reader: Inputs, tmp_path: Path
) -> None:
    copy, changed = tmp_path / "another #name?.bin", tmp_path / "cat.jpg"
    copy.write_bytes(CAT.read_bytes())
    changed.write_bytes(CAT.read_bytes() + b"\0")

    found = [
        await right(job(prompt="pending: approval", images=[str(path)]), reader)
        for path in (CAT, copy, changed)
    ]

    [media] = found[0].media
    assert (media.pointer, media.origin) == (("images", 0), str(CAT))
    assert (media.kind, media.media_type, media.bytes) == (
        "image", "image/jpeg", CAT.stat().st_size,
    )  # fmt: skip
    assert found[0].estimate_usd is None
    assert len(found[0].key) == 64
    assert found[0].key == found[1].key != found[2].key


async def test_all_mistakes_of_a_job_are_told_at_once_each_with_its_place(
    reader: Inputs, tmp_path: Path
) -> None:
    note, empty = write(tmp_path, note_txt=b"no picture", empty_png=b"")
    images = ["none.png", note, empty]
    inputs = {"film": str(CAT), "image": "", "strength": 2, "promt": "x"}

    assert await told(job("nowhere://b/o", "p.yaml:7:3", images=images, **inputs), reader) == [
        "p.yaml:7:3: image: is empty",
        "p.yaml:7:3: promt: the model has no such field; did you mean `prompt`?",
        "p.yaml:7:3: strength: 2 is too large; the maximum is 1",
        "p.yaml:7:3: images[0]: there is no file none.png; check the path and the source",
        (f"p.yaml:7:3: images[1]: {note} is of unknown type, not image; {BY_CONTENT}"),
        f"p.yaml:7:3: images[2]: {empty} is empty",
        f"p.yaml:7:3: film: {CAT} is image/jpeg, not video; {BY_CONTENT}",
        (
            "p.yaml:7:3: output.to: nowhere://b/o is not a valid place for outputs: "
            "name a folder, s3://…, gs://… or az://…"
        ),
    ]


@pytest.mark.parametrize(
    ("field", "content", "said"),
    [
        ("image", lambda: picture("JPEG")[:-90], "is broken: image file is truncated"),
        ("image", bomb, "declares more pixels than can be decoded safely"),
        ("image", lambda: picture("WEBP")[:-9], "is cut short"),
        ("film", lambda: clip()[:-9], "is cut short"),
        ("sound", lambda: clip("wav", None, "pcm_s16le")[:-9], "is cut short"),
        (
            "either",
            lambda: clip("mp4", None, "aac"),
            f"is audio/mp4, not image or video; {BY_CONTENT}",
        ),
        ("image", lambda: b"<svg/>", "is an SVG drawing, not image; export it as PNG or JPEG"),
        ("clip", clip, ": duration must be less than 2 (it has 2 seconds)"),
        ("ruled", lambda: picture("PNG"), ": Too wide (it has 64 × 48 pixels, a ratio of 1.333)"),
        (
            "image",
            lambda: picture("AVIF"),
            (
                "is image/avif, but models take JPEG, PNG, WebP and GIF; "
                "write `convert: jpeg` under the step to submit a copy"
            ),
        ),
        ("scan", heic, "is image/heic, but models take JPEG, PNG, WebP and GIF"),
        ("small", lambda: picture("PNG"), f"it has 64 × 48 pixels); {DOWNSCALE}"),
    ],
)
async def test_a_medium_that_cannot_be_submitted_is_told_in_words(
    reader: Inputs, tmp_path: Path, field: str, content: Callable[[], bytes], said: str
) -> None:
    [path] = write(tmp_path, medium_bin=content())

    message = (await told(job(**{field: path}), reader))[0]

    assert message.startswith(f"{field}: {path}")
    assert said in message


@pytest.mark.parametrize(("field", "most"), [("image", 50), ("film", 100)])
async def test_a_file_that_runcomfy_would_not_take_is_told_with_the_limit(
    reader: Inputs, tmp_path: Path, field: str, most: int
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.write(CAT.read_bytes())
        file.truncate(most * 2**20 + 1)

    [said] = await told(job(**{field: str(large)}), reader)

    assert f"has {most}.1 MB; RunComfy takes at most {most} MB; {DOWNSCALE}" in said
    if field == "image":
        smaller = prepared(Preparation(downscale=True), image=str(large))
        assert (await right(smaller, reader)).media[0].conversion == "jpeg<=50MB"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", ". is a folder; name a file in it"),
        ("/dev/null", "it is not a regular file"),
    ],
)
async def test_what_is_no_file_is_told_in_words(reader: Inputs, path: str, said: str) -> None:
    [problem] = await told(job(image=path), reader)

    assert said in problem
    assert "Errno" not in problem


async def test_what_the_web_gives_is_judged_by_its_content_as_well(
    reader: Inputs, files: str
) -> None:
    [problem] = await told(job(film=f"{files}/cat.jpg"), reader)

    assert problem.startswith(f"film: {files}/cat.jpg is image/jpeg, not video")
    found = await right(job(image=f"{files}/cat.jpg?x=1"), reader)
    assert found.media[0].media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan is not a number"),
        ([math.inf], "inf is not a number"),
        (date(2026, 1, 31), "values of type date cannot be sent"),
        ({1: "a"}, "the key 1 is not text"),
        ("\ud800", "not UTF-8"),
        ({"a": {1, 2}}, "values of type set cannot be sent"),
    ],
)
async def test_what_json_cannot_say_is_told_before_it_is_submitted(
    reader: Inputs, value: Any, said: str
) -> None:
    [in_inputs] = await told(job(options={"deep": value}), reader)
    [in_variant] = await told(replace(job(), variant=value), reader)

    assert said in in_inputs
    assert in_inputs.startswith("options.deep")
    assert said in in_variant
    assert in_variant.startswith("variant")


async def test_what_is_nested_without_end_is_a_mistake(reader: Inputs) -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]

    [in_inputs] = await told(job(options=deep), reader)
    [in_variant] = await told(replace(job(), variant=deep), reader)

    assert "nested more than 64 levels" in in_inputs
    assert in_variant == "variant: is nested too deep"


async def test_what_is_no_mistake_and_worth_knowing_is_said_once_for_all_jobs(
    reader: Inputs, tmp_path: Path
) -> None:
    names = {f"p{number}_jpg": picture("JPEG", (48, 64), orientation=3) for number in range(5)}
    turned = write(tmp_path, **names)
    png, photo = write(tmp_path, png_jpg=picture("PNG", (48, 64)), photo_jpg=heic())
    [upright] = write(tmp_path, upright_jpg=picture("JPEG", (48, 64)))
    jobs = [job(ruled=path) for path in [*turned, *turned, png, upright]]
    jobs.append(prepared(Preparation(convert="jpeg"), ruled=photo))

    found = await validate_pairs([(job, ENTRY) for job in jobs], reader.read_all)

    exif = "rotated by its EXIF data, which RunComfy may ignore"
    assert list(found.notes) == [
        f"{', '.join(turned[:3])} and 2 more: {exif}",
        "`frames<` of `ruled`: a rule that cannot be checked here; RunComfy applies it",
        f"{png}: image/png {BY_CONTENT}",
        f"{photo}: image/heic {BY_CONTENT}",
        f"{photo}: submitted as a JPEG copy; the original stays as it is",
    ]


@pytest.mark.parametrize(
    ("field", "content", "options", "conversion"),
    [
        ("image", lambda: picture("TIFF"), Preparation("jpeg"), "jpeg"),
        ("image", heic, Preparation("png"), "png"),
        ("scan", lambda: picture("TIFF"), Preparation(), ""),
        ("ruled", lambda: picture("JPEG", orientation=6), Preparation("jpeg"), "jpeg"),
        ("small", lambda: picture("PNG"), Preparation(downscale=True), "png<=40px"),
        ("either", clip, Preparation("jpeg", downscale=True), ""),
    ],
)
async def test_a_copy_is_submitted_where_the_options_allow_for_one_that_is_needed(
    reader: Inputs,
    tmp_path: Path,
    field: str,
    content: Callable[[], bytes],
    options: Preparation,
    conversion: str,
) -> None:
    [path] = write(tmp_path, medium_bin=content())

    found = await right(prepared(options, **{field: path}), reader)

    assert found.media[0].conversion == conversion
    assert found.media[0].media_type != "image/jpeg" or field == "ruled"


async def test_the_options_make_another_job_only_of_what_is_converted(
    reader: Inputs, tmp_path: Path
) -> None:
    [photo] = write(tmp_path, photo_heic=heic())
    taken = write(
        tmp_path, **{f"{form}_x": picture(form) for form in ("JPEG", "PNG", "WEBP", "GIF")}
    )
    options = Preparation(convert="webp", downscale=True)

    for path in taken:
        plain = await right(job(image=path), reader)
        found = await right(prepared(options, image=path), reader)
        assert (found.key, found.media) == (plain.key, plain.media)
    one = await right(prepared(Preparation("jpeg"), image=photo), reader)
    other = await right(prepared(Preparation("png"), image=photo), reader)
    assert one.key != other.key


async def test_a_model_without_a_schema_takes_every_kind_that_is_whole(
    reader: Inputs, tmp_path: Path
) -> None:
    model = UncheckedModel(model_id="acme/new")
    film, broken = write(tmp_path, film_mp4=clip(), broken_png=picture("PNG")[:-9])

    found = await validate_job(job(a=f"@{film}", b=[f"@{CAT}"], c="film.mp4"), model, reader)

    kinds = [(one.pointer, one.kind) for one in found.media]
    assert kinds == [(("a",), "video"), (("b", 0), "image")]
    [problem] = await told(job(a=f"@{broken}"), reader, model)
    assert problem.startswith(f"a: {broken} is broken")


LOOKS = st.builds(
    MediaInfo,
    st.sampled_from(["image/png", "video/mp4", "audio/mp4", "image/heic", "", "a/b"]),
    st.none() | st.integers(1, 10**6),
    st.none() | st.integers(1, 10**6),
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(0, 1e3),
    st.integers(1, 8),
    st.sampled_from(["", "is broken"]),
)
PREPARATIONS = st.builds(Preparation, st.sampled_from([None, "jpeg", "png", "webp"]), st.booleans())
FOUND: st.SearchStrategy[FileInfo | ReadError] = st.one_of(
    st.builds(FileInfo, st.just("ab" * 32), st.integers(0, 2**40), LOOKS),
    st.sampled_from([FileNotFoundError(), PermissionError(13, "no"), Unreachable("away")]),
    st.sampled_from([OSError(), IsADirectoryError(), OSError(5, "no")]),
)


@given(
    schema=SCHEMAS,
    inputs=st.dictionaries(st.sampled_from("abcd"), JSON),
    variant=JSON,
    data=st.data(),
)
def test_whatever_is_asked_of_whatever_model_is_a_job_or_a_list_of_mistakes(
    schema: Any, inputs: Any, variant: Any, data: st.DataObject
) -> None:
    entry = ModelEntry(model_id="acme/odd", input_schema=schema)
    one = Job("p", "i", "s", "acme/odd", inputs, Placement("out", "n", {}), variant)
    one = replace(one, preparation=data.draw(PREPARATIONS))

    async def look_up(reader: Iterable[str]) -> dict[str, FileInfo | ReadError]:
        return {origin: data.draw(FOUND) for origin in reader}

    found = asyncio.run(validate_pairs([(one, entry)], look_up))

    [checked] = found.checked
    assert checked or found.mistakes
    assert all(problem.message for problem in found.mistakes)
    assert all(found.notes)
