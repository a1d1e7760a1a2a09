"""What is read without a server: the dialect, the catalogue, the retention."""

from pathlib import Path

import pytest

from comfyline.sandbox.catalogue import ModelCatalogue
from comfyline.sandbox.dialect import check, media_values, with_defaults
from comfyline.sandbox.store import RETENTION, Store


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
