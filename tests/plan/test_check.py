import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.errors import InputInvalid, Problem, Unreachable
from comfyline.job import CheckedJob, Job, MediaInfo, Placement, Preparation
from comfyline.models.entry import ModelEntry, UncheckedModel
from comfyline.plan.check import validate_job, validate_pairs
from comfyline.storage.bucket import Bucket
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.origins import Origins
from tests.media.clips import bomb, clip, heic, picture

CAT = Path(__file__).parents[2] / "configs/samples/cat.jpg"
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
        await validate_job(one, ENTRY, origins)
    return caught.value.problems


def checked(one: CheckedJob) -> tuple[str, ...]:
    return tuple(media.media_type for media in one.media)


async def test_a_right_job_gets_its_key_and_its_media_by_content(origins: Origins) -> None:
    found = await validate_job(job(), ENTRY, origins)

    [media] = found.media
    assert (media.pointer, media.origin) == (("image_urls", 0), str(CAT))
    assert (media.kind, media.media_type, media.bytes) == (
        "image",
        "image/jpeg",
        CAT.stat().st_size,
    )
    assert len(found.key) == 64
    assert found.estimate_usd is None


async def test_a_prompt_may_speak_of_what_is_pending(origins: Origins) -> None:
    assert (await validate_job(job(prompt="pending: approval"), ENTRY, origins)).key


async def test_the_key_follows_the_bytes_and_not_the_name(origins: Origins, tmp_path: Path) -> None:
    copy = tmp_path / "another #name?.bin"
    copy.write_bytes(CAT.read_bytes())
    changed = tmp_path / "cat.jpg"
    changed.write_bytes(CAT.read_bytes() + b"\0")
    keys = [
        (await validate_job(job(image_urls=[str(path)]), ENTRY, origins)).key
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
        job(folder="nowhere://b/o", image_urls=paths, video=str(CAT), strength=2, promt="x"),
        origins,
    )

    unknown = "is no picture, video or sound that is known"
    hint = "by its content, whatever its name says"
    assert [str(problem) for problem in told] == [
        "p.yaml:7:3: promt: the model has no such field; did you mean `prompt`?",
        "p.yaml:7:3: strength: 2 is too large; the most is 1",
        f"p.yaml:7:3: image_urls[0]: there is no file {paths[0]}; check the path and the source",
        f"p.yaml:7:3: image_urls[1]: {paths[1]} {unknown}, not image; {hint}",
        f"p.yaml:7:3: image_urls[2]: {paths[2]} is empty",
        f"p.yaml:7:3: video: {CAT} is image/jpeg, not video; {hint}",
        (
            "p.yaml:7:3: output.to: nowhere://b/o is no place for outputs: "
            "name a folder, s3://…, gs://… or az://…"
        ),
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


async def test_what_the_web_gives_is_judged_by_its_content_as_well(
    origins: Origins, files: str
) -> None:
    [problem] = await mistakes(job(video=f"{files}/cat.jpg"), origins)

    assert problem.message == f"{files}/cat.jpg is image/jpeg, not video"
    found = await validate_job(job(image_urls=[f"{files}/cat.jpg?x=1"]), ENTRY, origins)
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


RULES = [
    {"validation_rule": "file_size_mb<", "validation_value": 30, "validation_error": "Too big."},
    {"validation_rule": "width/height<", "validation_value": 1, "validation_error": "Too wide."},
    {"validation_rule": "height_pixels>", "validation_value": 50, "validation_error": "Too low."},
    {"validation_rule": "frames<", "validation_value": 50, "validation_error": "Too many."},
]
RULED = ModelEntry(
    model_id="acme/edit",
    input_schema={
        "properties": {
            "images": {"type": "array", "format": "image_uris", "validations": RULES},
            "clip": {
                "format": "video_uri",
                "validations": [{"validation_rule": "duration<", "validation_value": 2}],
            },
            "sound": {"format": "audio_uri"},
            "either": {"anyOf": [{"format": "image_uri"}, {"format": "video_uri"}]},
        }
    },
)


def bare(**inputs: Any) -> Job:
    return Job("p", "cat", "edit", "acme/edit", inputs, Placement("out", "n", {}))


async def told(one: Job, entry: ModelEntry, origins: Origins) -> list[str]:
    try:
        await validate_job(one, entry, origins)
    except InputInvalid as error:
        return [str(problem) for problem in error.problems]
    return []


def write(folder: Path, **files: bytes) -> list[str]:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return [str(folder / name.replace("_", ".")) for name in files]


async def test_a_models_own_rules_are_told_in_its_words_with_what_was_measured(
    origins: Origins, tmp_path: Path
) -> None:
    wide, film = write(tmp_path, wide_png=picture("PNG"), film_mp4=clip())

    assert await told(bare(images=[wide], clip=film), RULED, origins) == [
        f"images[0]: {wide}: Too wide (it has 64 × 48 pixels, a ratio of 1.333)",
        f"images[0]: {wide}: Too low (it has 64 × 48 pixels)",
        f"clip: {film}: duration has to be less than 2 (it has 2 seconds)",
    ]


async def test_what_is_broken_is_told_whatever_it_is(origins: Origins, tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        a_jpg=picture("JPEG")[:-90],
        b_png=bomb(),
        c_webp=picture("WEBP")[:-9],
        d_mp4=clip()[:-9],
        e_wav=clip("wav", None, "pcm_s16le")[:-9],
    )
    job = bare(images=paths[:3], clip=paths[3], sound=paths[4])

    said = await told(job, RULED, origins)

    assert [line.split(":")[0] for line in said] == [
        "images[0]",
        "images[1]",
        "images[2]",
        "clip",
        "sound",
    ]
    assert "truncated" in said[0]
    assert "promises more pixels than can be safely decoded" in said[1]
    assert all(f"{paths[2 + n]} is cut short" in line for n, line in enumerate(said[2:]))


async def test_a_field_of_two_kinds_takes_either_and_no_third(
    origins: Origins, tmp_path: Path
) -> None:
    film, sound = write(tmp_path, film_mp4=clip(), sound_mp4=clip("mp4", None, "aac"))

    assert await told(bare(either=film), RULED, origins) == []
    assert await told(bare(either=str(CAT)), RULED, origins) == []
    assert await told(bare(either=sound), RULED, origins) == [
        f"either: {sound} is audio/mp4, not image or video; by its content, whatever its name says"
    ]


async def test_what_is_no_mistake_and_worth_knowing_is_said_once_for_all_jobs(
    origins: Origins, tmp_path: Path
) -> None:
    names = {f"p{number}_jpg": picture("JPEG", (48, 64), orientation=3) for number in range(5)}
    turned = write(tmp_path, **names)
    png, photo = write(tmp_path, png_jpg=picture("PNG", (48, 64)), photo_jpg=heic())
    [upright] = write(tmp_path, upright_jpg=picture("JPEG", (48, 64)))
    jobs = [bare(images=[path]) for path in [*turned, *turned, png, upright]]
    jobs.append(replace(bare(images=[photo]), preparation=Preparation(convert="jpeg")))

    found = await validate_pairs([(job, RULED) for job in jobs], origins.look)

    exif = "turned by its EXIF data; RunComfy may or may not honour that"
    unknown = "a rule that cannot be checked here; RunComfy judges by it"
    assert list(found.notes) == [
        f"{', '.join(turned[:3])} and 2 more: {exif}",
        f"`frames<` of `images`: {unknown}",
        f"{png}: image/png by its content, whatever its name says",
        f"{photo}: image/heic by its content, whatever its name says",
        f"{photo}: submitted as a JPEG copy; the original stays as it is",
    ]


ANY = ModelEntry(
    model_id="acme/edit",
    input_schema={
        "properties": {
            "image": {"format": "image_uri"},
            "scan": {"format": "image_uri", "description": "A picture: JPEG, PNG or TIFF."},
        }
    },
)


def prepared(preparation: Preparation, **inputs: Any) -> Job:
    return replace(bare(**inputs), preparation=preparation)


@pytest.mark.parametrize("form", ["AVIF", "BMP", "TIFF", "HEIF"])
async def test_a_format_that_models_do_not_take_is_refused_with_the_option_that_converts_it(
    origins: Origins, tmp_path: Path, form: str
) -> None:
    [photo] = write(tmp_path, photo_jpg=heic() if form == "HEIF" else picture(form))
    media_type = "image/heic" if form == "HEIF" else f"image/{form.lower()}"

    [said] = await told(bare(image=photo), ANY, origins)
    assert said == (
        f"image: {photo} is {media_type}, and models take JPEG, PNG, WebP and GIF; write "
        "`convert: jpeg` under the step to submit a copy"
    )
    found = await validate_job(prepared(Preparation(convert="jpeg"), image=photo), ANY, origins)
    assert (found.media[0].media_type, found.media[0].conversion) == (media_type, "jpeg")


async def test_a_format_that_the_model_itself_names_is_taken_as_it_is(
    origins: Origins, tmp_path: Path
) -> None:
    scan, photo = write(tmp_path, scan_tiff=picture("TIFF"), photo_heic=heic())

    assert (await validate_job(bare(scan=scan), ANY, origins)).media[0].conversion == ""
    assert "is image/heic" in (await told(bare(scan=photo), ANY, origins))[0]


async def test_a_drawing_is_refused_whatever_the_options(origins: Origins, tmp_path: Path) -> None:
    [svg] = write(tmp_path, a_svg=b'<svg xmlns="http://www.w3.org/2000/svg"/>')

    for preparation in (Preparation(), Preparation(convert="png", downscale=True)):
        [said] = await told(prepared(preparation, image=svg), ANY, origins)
        assert said == f"image: {svg} is an SVG drawing, not image; export it as PNG or JPEG"


async def test_what_the_model_takes_has_one_key_with_and_without_the_options(
    origins: Origins, tmp_path: Path
) -> None:
    photos = write(
        tmp_path,
        **{f"{form}_x": picture(form.upper()) for form in ("jpeg", "png", "webp", "gif")},
    )
    options = Preparation(convert="webp", downscale=True)

    for photo in photos:
        plain = await validate_job(bare(image=photo), ANY, origins)
        found = await validate_job(prepared(options, image=photo), ANY, origins)
        assert (found.key, found.media) == (plain.key, plain.media)


async def test_another_copy_is_another_job(origins: Origins, tmp_path: Path) -> None:
    [photo] = write(tmp_path, photo_heic=heic())
    forms = [Preparation(convert="jpeg"), Preparation(convert="png")]
    keys = {(await validate_job(prepared(one, image=photo), ANY, origins)).key for one in forms}

    assert len(keys) == 2


async def test_a_turned_picture_is_judged_and_submitted_upright(
    origins: Origins, tmp_path: Path
) -> None:
    [turned] = write(tmp_path, turned_jpg=picture("JPEG", orientation=6))
    job = prepared(Preparation(convert="jpeg"), images=[turned])

    found = await validate_job(job, RULED, origins)

    assert found.media[0].conversion == "jpeg"


async def test_a_picture_over_a_rule_of_the_model_names_the_option_and_then_fits(
    origins: Origins, tmp_path: Path
) -> None:
    rules = [
        {"validation_rule": "max_side<=", "validation_value": 40},
        {"validation_rule": "width_pixels>", "validation_value": 14},
    ]
    entry = ModelEntry(
        model_id="acme/edit",
        input_schema={"properties": {"image": {"format": "image_uri", "validations": rules}}},
    )
    [photo] = write(tmp_path, photo_png=picture("PNG"))

    [said] = await told(bare(image=photo), entry, origins)
    assert said.endswith("; write `downscale: true` under the step to submit a smaller copy")
    found = await validate_job(prepared(Preparation(downscale=True), image=photo), entry, origins)
    assert found.media[0].conversion == "png<=40px"


async def test_a_picture_over_50_mb_names_the_option_and_then_fits(
    origins: Origins, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.write(CAT.read_bytes())
        file.truncate(60 * 2**20)

    [said] = await told(bare(image=str(large)), ANY, origins)
    assert said == (
        f"image: {large} has 60.0 MB; RunComfy takes at most 50 MB; write `downscale: true` under "
        "the step to submit a smaller copy"
    )
    found = await validate_job(
        prepared(Preparation(downscale=True), image=str(large)), ANY, origins
    )
    assert found.media[0].conversion == "jpeg<=50MB"


async def test_a_model_without_a_schema_takes_every_kind_that_is_whole(
    origins: Origins, tmp_path: Path
) -> None:
    model = UncheckedModel(model_id="acme/new")
    film, broken = write(tmp_path, film_mp4=clip(), broken_png=picture("PNG")[:-9])

    found = await validate_job(bare(a=f"@{film}", b=[f"@{CAT}"], c="film.mp4"), model, origins)

    assert [(one.pointer, one.kind) for one in found.media] == [
        (("a",), "video"),
        (("b", 0), "image"),
    ]
    [problem] = await told(bare(a=f"@{broken}"), model, origins)
    assert problem.startswith(f"a: {broken} is broken")


async def test_what_is_nested_without_end_is_a_mistake(origins: Origins) -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]

    [in_inputs] = await mistakes(job(options=deep), origins)
    [in_variant] = await mistakes(job(variant=deep), origins)

    assert "nested more than 64 levels" in in_inputs.message
    assert in_variant.where == "p.yaml:7:3: variant"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
FORMATS = st.sampled_from([f"{k}_uri{s}" for k in ("image", "video", "audio") for s in ("", "s")])
FIELD = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "array", "float", "integer", "null", 3]),
            "format": FORMATS | JSON,
            "validations": st.just(RULES) | JSON,
            "enum": st.lists(JSON, max_size=3) | JSON,
            "default": JSON,
            "maximum": JSON,
            "multipleOf": JSON,
            "pattern": JSON,
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "format": FORMATS,
            "items": inner,
            "properties": st.dictionaries(st.sampled_from("abc"), inner),
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=3),
            "validations": st.just(RULES),
            "additionalProperties": inner | st.booleans(),
        },
    ),
    max_leaves=6,
)
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
FOUND: st.SearchStrategy[Facts | Trouble] = st.one_of(
    st.builds(Facts, st.just("ab" * 32), st.integers(0, 2**40), LOOKS),
    st.sampled_from([FileNotFoundError(), PermissionError(13, "no"), Unreachable("away")]),
    st.sampled_from([OSError(), IsADirectoryError(), OSError(5, "no")]),
)


@settings(max_examples=60, deadline=None)
@given(
    schema=st.dictionaries(st.sampled_from("abc"), FIELD),
    required=JSON,
    inputs=st.dictionaries(st.sampled_from("abcd"), JSON),
    variant=JSON,
    data=st.data(),
)
def test_whatever_is_asked_of_whatever_model_is_a_job_or_a_list_of_mistakes(
    schema: Any, required: Any, inputs: Any, variant: Any, data: st.DataObject
) -> None:
    entry = ModelEntry(
        model_id="acme/odd", input_schema={"properties": schema, "required": required}
    )
    one = Job("p", "i", "s", "acme/odd", inputs, Placement("out", "n", {}), variant)
    one = replace(one, preparation=data.draw(PREPARATIONS))

    async def look_up(origins: Iterable[str]) -> dict[str, Facts | Trouble]:
        return {origin: data.draw(FOUND) for origin in origins}

    found = asyncio.run(validate_pairs([(one, entry)], look_up))

    [checked] = found.checked
    assert checked or found.mistakes
    assert all(problem.message for problem in found.mistakes)
    assert all(found.notes)
