from comfyline.models.dialect import MediaField, Reading, media_fields, to_json_schema


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
        MediaField(("image_urls", 0), "a.jpg", (Reading("image"),)),
        MediaField(("image_urls", 1), "https://x/b.jpg", (Reading("image"),)),
        MediaField(("videos", 0), "c.mp4", (Reading("video"),)),
        MediaField(("audio",), "d.wav", (Reading("audio"),)),
        MediaField(("mask",), "m.png", (Reading("image"),)),
        MediaField(("shots", 0, "first"), "s.png", (Reading("image"),)),
    ]


def test_what_is_no_text_or_only_a_default_is_no_media() -> None:
    default = {"format": "image_uri", "default": "https://x/example.png"}
    fields = {"a": {"format": "image_uris"}, "b": {"format": "uri"}, "c": default}
    schema = {"properties": fields}

    assert media_fields(schema, {"a": [1, None, {"x": "y"}], "b": "https://x"}) == []
    assert media_fields(schema, {"a": "one.jpg"}) == [
        MediaField(("a",), "one.jpg", (Reading("image"),))
    ]


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


def test_a_field_may_take_one_kind_or_another() -> None:
    kinds = [{"format": "image_uri"}, {"format": "video_uri"}, {"type": "null"}]
    schema = {"properties": {"a": {"anyOf": kinds}, "b": {"items": {"oneOf": kinds}}}}

    assert media_fields(schema, {"a": "x", "b": ["y"]}) == [
        MediaField(("a",), "x", (Reading("image"), Reading("video"))),
        MediaField(("b", 0), "y", (Reading("image"), Reading("video"))),
    ]


def test_a_word_that_the_model_lists_is_no_path() -> None:
    branches = [{"format": "image_uri"}, {"enum": ["none", 3]}, {"const": "auto"}]
    schema = {"properties": {"a": {"anyOf": branches}}}

    assert media_fields(schema, {"a": "none"}) == media_fields(schema, {"a": "auto"}) == []
    assert media_fields(schema, {"a": "x"}) == [MediaField(("a",), "x", (Reading("image"),))]


def test_the_rules_of_a_field_go_with_each_of_its_media_wherever_they_stand() -> None:
    rules = [{"validation_rule": "width<", "validation_value": 9}]
    one = {"format": "image_uri", "validations": rules}
    schema = {
        "properties": {
            "single": one,
            "plural": {"type": "array", "format": "image_uris", "validations": rules},
            "beside": {"items": {"format": "image_uri"}, "validations": rules},
            "inside": {"items": one},
            "either": {"anyOf": [{"format": "image_uri"}, {"type": "null"}], "validations": rules},
            "branch": {"anyOf": [one, {"type": "null"}]},
            "nested": {"properties": {"deep": {"$ref": "#/$defs/one"}}, "validations": rules},
            "odd": {"format": "image_uri", "validations": "width<9"},
        },
        "$defs": {"one": one},
    }
    inputs = {
        **dict.fromkeys(("single", "either", "branch"), "x"),
        **{name: ["x"] for name in ("plural", "beside", "inside")},
        "nested": {"deep": "x"},
    }

    found = media_fields(schema, inputs)

    assert len(found) == 7
    assert all([list(r.validations) for r in field.readings] == [rules] for field in found)
    assert media_fields(schema, {"odd": "x"})[0].readings == (Reading("image"),)


def test_lists_without_end_hold_no_media() -> None:
    deep: object = "x"
    for _ in range(500):
        deep = [deep]

    assert media_fields({"properties": {"a": {"format": "image_uris"}}}, {"a": deep}) == []
