"""What is read without a server: the dialect, the catalogue, the shape of outputs, the rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfyline.sandbox.catalogue import CatalogueEntry, ModelCatalogue
from comfyline.sandbox.dialect import broken_rule, check, facts_of, media_values, with_defaults
from comfyline.sandbox.output_shape import fill_output, media_to_make
from comfyline.sandbox.store import RETENTION, Store

URL = {"type": "string", "format": "uri"}
SEVERAL = {"type": "array", "items": URL}
# As the model pages show it: everything that a model could answer with.
PAGE = {
    "output": {
        "type": "object",
        "properties": {"image": URL, "video": URL, "images": SEVERAL, "videos": SEVERAL},
    }
}


def test_the_dialect_is_understood():
    schema = {
        "type": "object",
        "required": ["scale"],
        "properties": {
            "scale": {"type": "float", "default": 2.0},
            "type": {"type": "string", "default": "plain"},
            "images": {"format": "image_uris", "maxItems": 2},
            "clips": {"type": "array", "items": {"type": "string", "format": "video_uri"}},
            "odd": {"type": "matrix"},
            "nested": {"type": "object", "properties": {"voice": {"format": "audio_uri"}}},
        },
    }
    good = {
        "scale": 1.5,
        "odd": [[1]],
        "images": ["https://e.com/1", "https://e.com/2"],
        "clips": ["http://127.0.0.1:9/c"],
        "nested": {"voice": "https://e.com/v"},
    }
    assert check(schema, good) == []
    assert [(m.path, m.kind) for m in media_values(schema, good)] == [
        (("images", 0), "image"),
        (("images", 1), "image"),
        (("clips", 0), "video"),
        (("nested", "voice"), "audio"),
    ]
    wrong = {"scale": "big", "images": "https://e.com/1", "nested": {"voice": 7}}
    assert {fault.path for fault in check(schema, wrong)} == {
        ("scale",),
        ("images",),
        ("nested", "voice"),
    }
    assert with_defaults(schema, {}) == {"type": "plain"}


def test_a_medium_is_found_behind_references_and_alternatives_and_null_is_none():
    either = [{"type": "string", "format": "image_uri"}, {"type": "null"}]
    schema = {
        "type": "object",
        "properties": {
            "style": {"anyOf": either, "default": "https://e.com/example"},
            "voice": {"type": "string", "format": "audio_uri", "nullable": True},
            "clip": {"$ref": "#/$defs/format"},
            "mode": {"enum": ["fast"], "nullable": True},
        },
        "$defs": {"format": {"type": "string", "format": "video_uri"}},
    }
    empty = {"style": None, "voice": None, "mode": None}
    assert check(schema, empty) == []
    assert list(media_values(schema, empty)) == []
    given = {"style": "https://e.com/s", "clip": "https://e.com/c"}
    assert [media.kind for media in media_values(schema, given)] == ["image", "video"]
    assert [fault.path for fault in check(schema, {"clip": "here"})] == [("clip",)]
    # The example of the model page's is nobody's wish.
    assert with_defaults(schema, {}) == {}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/a", "http://localhost/a", "http://[::1]:9000/a"]
)
def test_http_is_accepted_from_this_machine_only(url: str):
    schema = {"properties": {"image": {"type": "string", "format": "image_uri"}}}
    assert check(schema, {"image": url}) == []
    assert check(schema, {"image": "http://127.0.0.1.example.com/a"}) != []


def test_a_model_that_is_added_later_is_found(tmp_path: Path):
    catalogue = ModelCatalogue([tmp_path])
    assert catalogue.find("new/model") is None
    (tmp_path / "new").mkdir()
    (tmp_path / "new/model.json").write_text("{}")
    assert catalogue.find("new/model") is not None


def test_a_result_is_unknown_after_seven_days(tmp_path: Path):
    now = 1_000_000.0
    store = Store(tmp_path, lambda: now)
    store.add("one", model_id="m", inputs={}, price_usd=1, once=False)
    request = store.claim()
    assert request is not None
    store.complete(request, ["0.png"], 1)
    now += RETENTION - 1
    assert store.find("one") is not None
    now += 2
    assert store.find("one") is None
    assert store.charged() == 1
    store.close()


def entry(category: str, output_schema: Any = None, *fields: str) -> CatalogueEntry:
    schema = {"type": "object", "properties": {name: {} for name in fields}}
    return CatalogueEntry(
        model_id="m", categories=(category,), input_schema=schema, output_schema=output_schema
    )


def made(model: CatalogueEntry, inputs: dict[str, Any]):
    names = [f"{n}.{kind}" for n, kind in enumerate(media_to_make(model, inputs))]
    files = [name.replace("image", "png").replace("video", "mp4") for name in names]
    files = [name.replace("audio", "mp3") for name in files]
    return fill_output(model, inputs, [f"https://e.com/{name}" for name in files], files)


@pytest.mark.parametrize(
    ("category", "schema", "fields", "inputs", "expected"),
    [
        ("text-to-audio", PAGE, (), {}, {"audio": "https://e.com/0.mp3"}),
        (
            "text-to-image",
            PAGE,
            ("num_images",),
            {"num_images": 2},
            {"images": ["https://e.com/0.png", "https://e.com/1.png"]},
        ),
        (
            "image-to-video",
            {
                "type": "object",
                "properties": {
                    "seed": {"type": "integer"},
                    "result": {
                        "type": "object",
                        "properties": {
                            "video": {"properties": {"url": URL, "content_type": {}}},
                        },
                    },
                    "poster": {"type": "string", "format": "image_uri"},
                    "frames": {"format": "image_uris"},
                },
            },
            (),
            {},
            {
                "result": {"video": {"url": "https://e.com/0.mp4"}},
                "poster": "https://e.com/1.png",
                "frames": ["https://e.com/2.png"],
            },
        ),
    ],
)
def test_the_output_has_the_shape_of_the_entry(
    category: str, schema: Any, fields: tuple[str, ...], inputs: dict[str, Any], expected: Any
):
    assert made(entry(category, schema, *fields), inputs) == expected


def test_an_output_without_files_is_empty_and_one_of_a_vanished_model_a_list():
    assert fill_output(entry("text-to-image"), {}, [], []) == {}
    assert fill_output(None, {}, ["https://e.com/0.mp4"], ["0.mp4"]) == {
        "videos": ["https://e.com/0.mp4"]
    }


@pytest.mark.parametrize(
    ("told", "unit", "inputs", "charge"),
    [
        (0.5, "output", {"num_videos": 3}, 1.5),
        (0.5, "second", {"duration": "4s"}, 2.0),
        (0.5, "second", {"duration": "auto"}, 3.5),
        (0, "output", {}, 0),
        # What the catalogue does not tell is charged all the same.
        (None, "output", {}, 0.04),
        (-1, "second", {"duration": 2}, 0.16),
    ],
)
def test_a_request_is_charged_by_its_unit_also_when_the_price_is_not_told(
    tmp_path: Path, told: float | None, unit: str, inputs: dict[str, Any], charge: float
):
    stored = {"models": [{"model_id": "a/b", "price_unit": unit, "base_price_usd": told}]}
    (tmp_path / "answer.json").write_text(json.dumps(stored))
    found = ModelCatalogue([tmp_path]).find("a/b")
    assert found is not None
    assert found.charge(inputs, made_seconds=7) == pytest.approx(charge)
    assert found.shown(with_schema=False)["base_price_usd"] == told


@pytest.mark.parametrize(
    ("rule", "bound", "breaks"),
    [
        ("file_size_mb<", 1, True),
        ("file_size_mb<", 3, False),
        ("width/height>", 2, True),
        ("width/height>", 1.9, False),
        ("width/height<", 2.1, False),
        ("width_pixels>", 400, True),
        ("height_pixels>=", 200, False),
        ("duration_seconds<=", 10, False),
        ("sparkle<", 1, False),
        ("width_pixels", 1, False),
        ("width_pixels>", "many", False),
    ],
)
def test_the_rules_of_a_file_are_kept_and_unknown_ones_forbid_nothing(
    rule: str, bound: Any, *, breaks: bool
):
    written = [{"validation_rule": rule, "validation_value": bound, "validation_error": "No."}]
    picture = facts_of(2 * 1024 * 1024, (400, 200))
    assert broken_rule(written, picture) == ("No." if breaks else None)
