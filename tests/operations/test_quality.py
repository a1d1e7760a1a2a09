"""Outputs that are not what was asked for: stored aside, written down, and never thrown away."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import Rejected, Unreachable
from comfyline.job import CheckedJob, ContentChecks, Job, JobState, Media, Placement
from comfyline.keys import job_key
from comfyline.media.similar import Appearance, NamedAppearance
from comfyline.operations.quality import asked_ratio, content_flaws, reject
from comfyline.run import Run
from comfyline.services import Services
from tests.media.clips import clip, picture
from tests.operations.conftest import Paid, a_run, pay

SMALL, OTHER = picture("PNG"), picture("PNG", (64, 46))
EVERYTHING = ContentChecks(
    64, 48, aspect_ratio=True, not_blank=True, not_input=True, not_duplicate=True
)
NOT_SMALL = ContentChecks(min_width=1024)
TOO_SMALL = "The output is 64 × 48 pixels, but at least 1024 wide is required"

LOOK = Appearance(1024, 576, is_blank=False, lines=0b1010, colours=bytes(768))
OUTPUT = NamedAppearance("cat · edit", "a" * 64, "image/png", LOOK)
UNLIKE = NamedAppearance(
    "dog · edit", "b" * 64, "image/jpeg", replace(LOOK, lines=~0b1010 & (1 << 64) - 1)
)
FILM = replace(OUTPUT, media_type="video/mp4")


def with_look(**changes: Any) -> NamedAppearance:
    return replace(OUTPUT, appearance=replace(LOOK, **changes))


def asked(
    out: str, checks: ContentChecks | None, prompt: str = "a cat", *media: Media
) -> CheckedJob:
    inputs = {"prompt": prompt, "aspect_ratio": "4:3"}
    placement = Placement(out, f"{prompt}-{{{{ index }}}}.{{{{ ext }}}}", {})
    job = Job("p", prompt, "edit", "acme/edit", inputs, placement, checks=checks)
    return CheckedJob(job, job_key("acme/edit", {**inputs, "to": out}, (), None), media, 0.5)


async def rejected(paid: Paid, run: Run | None = None) -> Rejected | None:
    return await reject(paid.checked, paid.submission, paid.fetched, run or a_run(), paid.services)


def aside(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(out) / "rejected").iterdir()}


async def test_a_rejected_output_is_stored_aside_and_the_attempt_ends_with_its_cost(
    services: Services, out: str
) -> None:
    paid = await pay(services, asked(out, NOT_SMALL), SMALL)

    error = await rejected(paid)

    assert error is not None
    assert (error.kind, error.message) == ("rejected", TOO_SMALL)
    assert error.request_id == paid.submission.request_id
    assert f"file://{out}/rejected" in error.hint
    files = aside(out)
    assert files["a cat-0.png"] == SMALL
    sidecar = json.loads(files["a cat-0.png.json"])
    assert (sidecar["rejected"], sidecar["cost_usd"]) == (TOO_SMALL, 0.4)
    assert sidecar["output"]["sha256"] == paid.fetched.files[0].sha256
    known = await paid.attempt()
    assert (known.state, known.error_kind, known.cost_usd) == (JobState.FAILED, "rejected", 0.4)
    assert not services.work_directory(paid.submission.request_id).exists()


@pytest.mark.parametrize("checks", [None, ContentChecks(), EVERYTHING])
async def test_what_passes_or_was_accepted_once_is_left_for_whoever_stores_it(
    services: Services, out: str, checks: ContentChecks | None
) -> None:
    paid = await pay(services, asked(out, checks), SMALL)
    strict = await pay(services, asked(out, NOT_SMALL, "brought back"), SMALL)
    restored = replace(strict, submission=replace(strict.submission, state=JobState.PERSISTED))

    assert [await rejected(one) for one in (paid, restored)] == [None, None]
    assert not Path(out).exists()  # noqa: ASYNC240


async def test_of_several_outputs_one_takes_all_along_and_each_says_why(
    services: Services, out: str
) -> None:
    error = await rejected(
        await pay(services, asked(out, ContentChecks(min_height=47)), SMALL, OTHER)
    )

    said = "Output 2 is 64 × 46 pixels, but at least 47 high is required"
    assert error is not None
    assert error.message == said
    files = aside(out)
    assert [files[f"a cat-{n}.png"] for n in (0, 1)] == [SMALL, OTHER]
    assert [json.loads(files[f"a cat-{n}.png.json"])["rejected"] for n in (0, 1)] == [said, said]


async def test_nothing_that_lies_aside_already_is_overwritten(services: Services, out: str) -> None:
    for content in (SMALL, OTHER, OTHER):
        assert await rejected(await pay(services, asked(out, NOT_SMALL), content))

    files = aside(out)
    names = ("a cat-0-2.png", "a cat-0-3.png", "a cat-0.png")
    assert [files[name] for name in names] == [SMALL, OTHER, OTHER]
    assert len({json.loads(files[f"{name}.json"])["request_id"] for name in names}) == 3


async def test_a_process_that_dies_before_the_ledger_hears_rejects_the_same_file_again(
    services: Services, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await rejected(await pay(services, asked(out, NOT_SMALL), OTHER))
    paid = await pay(services, asked(out, NOT_SMALL), SMALL)

    async def killed(*_: object, **__: object) -> None:
        raise Unreachable("killed")

    with monkeypatch.context() as dying:
        dying.setattr(services.ledger, "ended", killed)
        with pytest.raises(Unreachable, match="killed"):
            await rejected(paid)
    assert await rejected(paid)

    files = aside(out)
    assert len(files) == 4
    assert [files["a cat-0.png"], files["a cat-0-2.png"]] == [SMALL, OTHER]


async def test_where_it_cannot_be_stored_aside_the_attempt_goes_on(
    services: Services, out: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    in_the_way = tmp_path / "out/rejected"
    in_the_way.write_text("a file where the folder should be")
    paid = await pay(services, asked(out, NOT_SMALL), SMALL)

    with pytest.raises(Unreachable, match="cannot be quarantined"):
        await rejected(paid)

    assert (await paid.attempt()).state is JobState.COMPLETED
    in_the_way.unlink()
    assert await rejected(paid)


async def test_of_two_alike_in_a_step_one_is_accepted_and_again_when_it_is_asked_again(
    services: Services, out: str
) -> None:
    run, checks = a_run(), ContentChecks(not_duplicate=True)
    first, second = asked(out, checks), asked(out, checks, "a dog")
    upscaled = replace(second, job=replace(second.job, step="upscale"), key="f" * 64)
    a, b, c = [await pay(services, one, SMALL) for one in (first, second, upscaled)]

    assert await rejected(a, run) is None
    assert await rejected(a, run) is None
    error = await rejected(b, run)
    assert error is not None
    assert error.message == "The output is nearly the same as an output of a cat · edit"
    # The same picture in another step is what a chain of steps is for.
    assert await rejected(c, run) is None


async def test_an_input_that_came_back_is_rejected_and_one_that_is_gone_rejects_nothing(
    services: Services, out: str, tmp_path: Path
) -> None:
    content = picture("WEBP", (128, 96))
    (tmp_path / "given.webp").write_bytes(content)
    media = Media(("image",), str(tmp_path / "given.webp"), "image", "a" * 64, 1, "image/webp")
    checked = asked(out, ContentChecks(not_input=True), "a cat", media)
    paid = await pay(services, checked, content, media_type="image/webp")
    away = replace(media, origin=str(tmp_path / "gone.webp"))

    assert await rejected(replace(paid, checked=replace(checked, media=(away,)))) is None
    error = await rejected(paid)
    assert error is not None
    assert error.message == "The output is the same as the input given.webp"


async def test_a_film_is_measured_as_well(services: Services, out: str) -> None:
    checked = asked(out, ContentChecks(min_width=100, aspect_ratio=True, not_blank=True))

    error = await rejected(await pay(services, checked, clip(), media_type="video/mp4"))

    assert error is not None
    assert error.message == "The output is 64 × 48 pixels, but at least 100 wide is required"
    assert "a cat-0.mp4" in aside(out)


WIDE = {"aspect_ratio": "16:9"}
SAME = replace(OUTPUT, name="cat.jpg", sha256="c" * 64)
UNSEEN = replace(UNLIKE, name="cat.jpg", sha256=OUTPUT.sha256, appearance=None)
LIKE = replace(UNLIKE, appearance=LOOK)


@pytest.mark.parametrize(
    ("checks", "output", "more", "said"),
    [
        (ContentChecks(min_width=2048), OUTPUT, {}, "is 1024 × 576 pixels, but at least 2048 wide"),
        (ContentChecks(min_height=577), OUTPUT, {}, "is 1024 × 576 pixels, but at least 577 high"),
        (ContentChecks(1024, 1024), OUTPUT, {}, "at least 1024 × 1024 is required"),
        (ContentChecks(1024, 576), OUTPUT, {}, None),
        (ContentChecks(aspect_ratio=True), OUTPUT, {"inputs": WIDE}, None),
        (ContentChecks(aspect_ratio=True), with_look(width=1040), {"inputs": WIDE}, None),
        (
            ContentChecks(aspect_ratio=True),
            with_look(width=1050),
            {"inputs": WIDE},
            "is 1050 × 576 pixels, but 16:9 is required",
        ),
        (ContentChecks(not_blank=True), with_look(is_blank=True), {}, "is blank: a single colour"),
        (ContentChecks(min_width=1), with_look(is_blank=True), {}, None),
        (
            ContentChecks(min_width=2000, not_blank=True),
            with_look(is_blank=True),
            {},
            "2000 wide is required; it is blank: a single colour",
        ),
        (ContentChecks(not_input=True), OUTPUT, {"given": [SAME]}, "same as the input cat.jpg"),
        (ContentChecks(not_input=True), OUTPUT, {"given": [UNSEEN]}, "same as the input cat.jpg"),
        (ContentChecks(not_input=True), OUTPUT, {"given": [UNLIKE]}, None),
        (ContentChecks(), OUTPUT, {"given": [SAME]}, None),
        (ContentChecks(not_duplicate=True), OUTPUT, {"others": [LIKE]}, "an output of dog · edit"),
        (ContentChecks(not_duplicate=True), OUTPUT, {"others": [UNLIKE]}, None),
        # Of videos only the same bytes are the same.
        (EVERYTHING, FILM, {"given": [SAME], "others": [replace(FILM, sha256="e" * 64)]}, None),
        (ContentChecks(not_input=True), FILM, {"given": [FILM]}, "same as the input"),
        # What cannot be looked at is not rejected.
        (EVERYTHING, replace(OUTPUT, appearance=None), {"inputs": {"aspect_ratio": "1:1"}}, None),
    ],
)
def test_each_check_says_what_is_wrong(
    checks: ContentChecks, output: NamedAppearance, more: dict[str, Any], said: str | None
) -> None:
    given = {"inputs": {}, "given": [], "others": []} | more

    flaws = content_flaws(checks, outputs=[output], **given)

    assert (said or "") in flaws.get(0, "")
    assert bool(flaws) == bool(said)


def test_two_outputs_of_one_job_that_are_alike_are_one_too_many() -> None:
    twins = [OUTPUT, replace(OUTPUT, sha256="d" * 64)]

    assert content_flaws(ContentChecks(not_duplicate=True), {}, twins, [], []) == {
        1: "Output 2 is nearly the same as an output of cat · edit"
    }


@pytest.mark.parametrize(
    ("inputs", "ratio"),
    [
        ({"aspect_ratio": "16:9"}, 16 / 9),
        ({"aspect_ratio": " 4 / 3 "}, 4 / 3),
        ({"width": 1024, "height": 512}, 2),
        ({"size": "1024*768"}, 4 / 3),
        ({"image_size": "640 × 480"}, 4 / 3),
        ({"settings": {"aspect_ratio": "1:1"}}, 1),
        ({"image_size": {"width": 300, "height": 100}}, 3),
        ({"aspect_ratio": "auto", "resolution": "2K", "width": 0, "height": True}, None),
        ({"aspect_ratio": "0:0", "width": 100}, None),
    ],
)
def test_the_ratio_asked_for_is_found_whatever_it_is_called(
    inputs: dict[str, Any], ratio: float | None
) -> None:
    assert asked_ratio(inputs) == (pytest.approx(ratio) if ratio else None)
