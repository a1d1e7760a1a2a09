from comfyline.models.dialect import MediaField, media_fields, to_json_schema


def test_singular_and_plural_media_are_found_at_any_depth() -> None:
    schema = {
        "properties": {
            "image_urls": {"type": "array", "items": {"type": "string", "format": "image_uri"}},
            "videos": {"type": "array", "format": "video_uris"},
            "audio": {"type": "string", "format": "audio_uri"},
            "prompt": {"type": "string"},
            "mask": {"anyOf": [{"type": "string", "format": "image_uri"}, {"type": "null"}]},
            "shots": {"type": "array", "items": {"$ref": "#/$defs/shot"}},
        },
        "$defs": {"shot": {"properties": {"first": {"format": "image_uri"}}}},
    }
    inputs = {
        "prompt": "a.jpg",
        "image_urls": ["a.jpg", "https://x/b.jpg"],
        "videos": ["c.mp4"],
        "audio": "d.wav",
        "mask": "m.png",
        "shots": [{"first": "s.png", "other": "x"}],
    }

    assert media_fields(schema, inputs) == [
        MediaField(("image_urls", 0), "image", "a.jpg"),
        MediaField(("image_urls", 1), "image", "https://x/b.jpg"),
        MediaField(("videos", 0), "video", "c.mp4"),
        MediaField(("audio",), "audio", "d.wav"),
        MediaField(("mask",), "image", "m.png"),
        MediaField(("shots", 0, "first"), "image", "s.png"),
    ]


def test_what_is_no_text_is_no_media() -> None:
    schema = {"properties": {"a": {"format": "image_uris"}, "b": {"format": "uri"}}}

    assert media_fields(schema, {"a": [1, None, {"x": "y"}], "b": "https://x"}) == []
    assert media_fields(schema, {"a": "one.jpg"}) == [MediaField(("a",), "image", "one.jpg")]


def test_defaults_are_never_taken_for_inputs() -> None:
    schema = {"properties": {"a": {"format": "image_uri", "default": "https://x/example.png"}}}

    assert media_fields(schema, {}) == []


def test_the_dialect_becomes_plain_json_schema() -> None:
    schema = {
        "title": "t",
        "properties": {
            "x": {"type": "float", "default": 1, "format": "slider"},
            "y": {"type": "file"},
            "z": {"type": ["string", "null"], "minLength": "two"},
            "i": {"format": "image_uris", "maxItems": 3, "validations": []},
        },
        "required": ["x"],
    }

    assert to_json_schema(schema) == {
        "properties": {
            "x": {"type": ["number"]},
            "y": {},
            "z": {"type": ["string", "null"]},
            "i": {"type": ["array"], "maxItems": 3, "items": {"type": ["string"], "minLength": 1}},
        },
        "required": ["x"],
        "additionalProperties": False,
    }
