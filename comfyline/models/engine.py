"""The one JSON Schema engine. Its patterns run in time linear to the text, so none hangs a run."""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

_PATTERNS = jsonschema_rs.RegexOptions(size_limit=256 * 1024)
"""Without look-around and back-references; linear means linear for small automata only."""


def compile_schema(plain: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Compile a plain JSON Schema. Raises `ValueError` for one that is none."""
    return jsonschema_rs.Draft202012Validator(dict(plain), pattern_options=_PATTERNS)


def is_sound(rule: str, value: Any) -> bool:
    """Whether the engine takes this value for a rule such as `pattern`."""
    try:
        compile_schema({rule: value})
    except ValueError:
        return False
    return True
