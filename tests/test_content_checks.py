"""What the checks of a step say of its outputs."""

from dataclasses import replace
from typing import Any

import pytest

from comfyline.job import ContentChecks
from comfyline.media.similar import Appearance, NamedAppearance
from comfyline.operations.quality import asked_ratio, content_flaws

LOOK = Appearance(1024, 576, is_blank=False, lines=0b1010, colours=bytes(768))
OUTPUT = NamedAppearance("cat · edit", "a" * 64, "image/png", LOOK)
OTHER = NamedAppearance(
    "dog · edit", "b" * 64, "image/jpeg", replace(LOOK, lines=~0b1010 & (1 << 64) - 1)
)


def flaws(checks: ContentChecks, output: NamedAppearance = OUTPUT, **more: Any) -> list[str]:
    given = {"inputs": {}, "given": [], "others": []} | more
    return list(content_flaws(checks, outputs=[output], **given).values())


def with_look(**changes: Any) -> NamedAppearance:
    return replace(OUTPUT, appearance=replace(LOOK, **changes))


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (ContentChecks(min_width=2048), "at least 2048 wide is asked for"),
        (ContentChecks(min_height=577), "at least 577 high is asked for"),
        (ContentChecks(min_width=1024, min_height=1024), "at least 1024 × 1024 is asked for"),
    ],
)
def test_an_output_that_is_too_small_says_what_is_asked_for(
    checks: ContentChecks, said: str
) -> None:
    assert flaws(checks) == [f"The output is 1024 × 576 pixels, and {said}"]
    assert flaws(ContentChecks(min_width=1024, min_height=576)) == []


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
        ({}, None),
    ],
)
def test_the_ratio_asked_for_is_found_whatever_it_is_called(
    inputs: dict[str, Any], ratio: float | None
) -> None:
    assert asked_ratio(inputs) == (pytest.approx(ratio) if ratio else None)


@pytest.mark.parametrize(("width", "fits"), [(1024, True), (1040, True), (1050, False)])
def test_a_ratio_may_be_off_by_two_percent(width: int, *, fits: bool) -> None:
    found = flaws(
        ContentChecks(aspect_ratio=True), with_look(width=width), inputs={"aspect_ratio": "16:9"}
    )

    said = f"The output is {width} × 576 pixels, and 16:9 is asked for"
    assert found == ([] if fits else [said])


def test_a_blank_output_is_named_so_and_only_where_that_is_asked() -> None:
    assert flaws(ContentChecks(not_blank=True), with_look(is_blank=True)) == [
        "The output is blank: one colour all over"
    ]
    assert flaws(ContentChecks(min_width=1), with_look(is_blank=True)) == []


def test_the_input_that_came_back_is_found_by_its_bytes_or_its_look() -> None:
    checks = ContentChecks(not_input=True)
    photo = replace(OUTPUT, name="cat.jpg", sha256="c" * 64)
    unseen = replace(OTHER, name="cat.jpg", sha256=OUTPUT.sha256, appearance=None)

    for given in (photo, unseen):
        assert flaws(checks, given=[given]) == ["The output is the same as the input cat.jpg"]
    assert flaws(checks, given=[OTHER]) == []
    assert flaws(ContentChecks(), given=[photo]) == []


def test_an_output_like_another_of_the_run_or_of_the_job_is_found() -> None:
    checks = ContentChecks(not_duplicate=True)
    like = replace(OTHER, appearance=LOOK)

    assert flaws(checks, others=[like]) == [
        "The output is nearly the same as an output of dog · edit"
    ]
    assert flaws(checks, others=[OTHER]) == []
    both = content_flaws(checks, {}, [OUTPUT, replace(OUTPUT, sha256="d" * 64)], [], [])
    assert both == {1: "Output 2 is nearly the same as an output of cat · edit"}


def test_of_videos_only_the_same_bytes_are_the_same() -> None:
    checks = ContentChecks(not_input=True, not_duplicate=True)
    film = replace(OUTPUT, media_type="video/mp4")
    another = replace(film, sha256="e" * 64)

    assert flaws(checks, film, given=[replace(OUTPUT, sha256="f" * 64)], others=[another]) == []
    assert len(flaws(checks, film, given=[film], others=[film])) == 1


def test_several_flaws_are_told_together() -> None:
    checks = ContentChecks(min_width=2000, not_blank=True)

    [said] = flaws(checks, with_look(is_blank=True))
    assert said.endswith("2000 wide is asked for; it is blank: one colour all over")


def test_what_cannot_be_looked_at_is_not_rejected() -> None:
    everything = ContentChecks(
        2000, 2000, aspect_ratio=True, not_blank=True, not_input=True, not_duplicate=True
    )

    assert flaws(everything, replace(OUTPUT, appearance=None), inputs={"aspect_ratio": "1:1"}) == []
