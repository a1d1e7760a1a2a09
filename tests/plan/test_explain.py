from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.job import CheckedJob, Job, Media, MediaKind, Placement, Pointer
from comfyline.keys import job_key
from comfyline.plan.explain import changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner),
    max_leaves=4,
)
INPUTS = st.dictionaries(st.sampled_from(["prompt", "seed", "options"]), JSON)


def medium(at: Pointer, content: str, kind: MediaKind = "image", conversion: str = "") -> Media:
    return Media(at, f"in/{content}.jpg", kind, content * 64, 9, "image/jpeg", conversion)


def asked(
    *media: Media, model: str = "acme/edit", variant: Any = None, **inputs: Any
) -> CheckedJob:
    job = Job("p", "cat", "edit", model, inputs, Placement("out", "n", {}), variant)
    return CheckedJob(job, job_key(model, inputs, media, variant), media, None)


def photo(content: str, **more: Any) -> CheckedJob:
    one = medium(("image_urls", 0), content)
    return asked(one, image_urls=[one.origin], prompt="a door", **more)


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (photo("a", seed=2), ("`seed` changed",)),
        (photo("b", seed=1), ("photo changed",)),
        (photo("a", seed=1, variant=2), ("variant changed",)),
        (photo("a", seed=1, model="acme/paint"), ("model changed",)),
        (photo("a", seed=True), ("`seed` changed",)),
        (photo("a"), ("`seed` changed",)),
        (replace(photo("a", seed=1), key="another"), ("inputs changed",)),
        (
            photo("b", seed=3, variant="x", model="acme/paint"),
            ("model changed", "photo changed", "`seed` changed", "variant changed"),
        ),
    ],
)
def test_what_has_changed_is_named(after: CheckedJob, told: tuple[str, ...]) -> None:
    assert changes(photo("a", seed=1), after) == told


def test_the_same_photo_elsewhere_is_no_change_beside_another_prompt() -> None:
    here, there = medium(("image",), "a"), replace(medium(("image",), "a"), origin="out/b.png")

    told = changes(
        asked(here, image=here.origin, prompt="a"), asked(there, image=there.origin, prompt="b")
    )

    assert told == ("prompt changed",)


@pytest.mark.parametrize(
    ("kind", "after", "word"),
    [
        ("image", "b", "photo changed"),
        ("video", "b", "video changed"),
        ("audio", "b", "sound changed"),
        ("image", "ab", "photo changed"),
    ],
)
def test_media_are_told_of_alone_and_called_by_their_kind(
    kind: MediaKind, after: str, word: str
) -> None:
    def files(names: str) -> CheckedJob:
        media = [medium(("files", at), name, kind) for at, name in enumerate(names)]
        return asked(*media, files=[*names])

    assert changes(files("a"), files(after)) == (word,)


def test_another_conversion_is_told() -> None:
    one, small = medium(("image",), "a"), medium(("image",), "a", conversion="jpeg")

    told = changes(asked(one, image="a"), asked(small, image="a"))

    assert told == ("photo is converted differently",)


@given(before=INPUTS, after=INPUTS)
def test_a_field_is_named_exactly_where_its_json_is_another(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    def key(name: str, inputs: dict[str, Any]) -> str:
        return job_key("m", {name: inputs[name]} if name in inputs else {}, (), None)

    told = changes(asked(**before), asked(**after))

    other = {name for name in {*before, *after} if key(name, before) != key(name, after)}
    assert {word.removesuffix(" changed").strip("`") for word in told} == (other or {"inputs"})
