"""What JSON may hold, and what a catalogue might call a schema: nothing may break on either."""

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_KEYS = [
    "type",
    "properties",
    "items",
    "enum",
    "const",
    "required",
    "minimum",
    "maximum",
    "multipleOf",
    "minItems",
    "maxLength",
    "pattern",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "additionalProperties",
    "format",
    "prefixItems",
    "default",
    "validations",
    "description",
    "a",
    "b",
]
_WORDS = ["string", "object", "array", "float", "integer", "image_uri", "video_uris", "#", "#/a"]
_RULES = [
    {"validation_rule": "width/height<", "validation_value": 1, "validation_error": "Too wide."},
    {"validation_rule": "frames<", "validation_value": 50},
]
_SCHEMA = st.recursive(
    st.sampled_from([*_WORDS, "a", True, None, 0, -1, 0.1, ["a"], "(", 10**400, _RULES]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5)
    ),
    max_leaves=14,
)
SCHEMAS = st.fixed_dictionaries(
    {"properties": st.dictionaries(st.sampled_from("abc"), _SCHEMA, max_size=3)},
    optional={"required": _SCHEMA, "anyOf": _SCHEMA, "$ref": _SCHEMA},
) | st.dictionaries(st.sampled_from(_KEYS), _SCHEMA, max_size=5)
