"""Whatever stands in a file: a pipeline or located mistakes."""

import asyncio
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.job import FileInfo
from comfyline.models.catalogue import Catalogue, ModelCache
from comfyline.models.entry import ModelEntry
from comfyline.plan.lint import LintResult, lint_file, named_models, static_mistakes
from comfyline.storage.fingerprints import ReadError
from comfyline.yaml.file import LocatedYaml, load_yaml

Write = Callable[..., Path]

MODEL = {
    "model_id": "some/model",
    "categories": ["image-to-image"],
    "input_schema": {
        "type": "object",
        "required": ["prompt", "image_urls"],
        "properties": {
            "prompt": {"type": "string", "maxLength": 40},
            "image_urls": {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "items": {"type": "string", "format": "image_uri"},
            },
            "seed": {"type": "integer", "minimum": 0},
            "ratio": {"type": "string", "enum": ["1:1", "16:9"]},
            "options": {
                "type": "object",
                "required": ["on"],
                "properties": {"on": {"type": "boolean"}, "sizes": {"type": "array"}},
            },
        },
    },
}
ONE_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
WORDS = st.sampled_from(
    ["", "a", "1:1", "{{ item.sku }}", "{{ x", "{% if %}", "*.jpg", "..", "\ud800", "items"]
) | st.sampled_from(["yes", "{{ steps.edit.images }}", "steps", "p.yaml", "\0", "a" * 300])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(WORDS, one, max_size=3),
    max_leaves=6,
)
SPOILT = st.sampled_from(
    [": ", "- ", "&a ", "*a", "!file x", "<<: ", "{", "]", "'", "#", "\t", "? ", "|\n", "08", "\n"]
)


class NothingThere:
    """Looks at no medium."""

    async def look(self, _: Any, /) -> dict[str, FileInfo | ReadError]:
        return {}


@pytest.fixture
def checked(write: Write, tmp_path: Path) -> Callable[[str], LintResult]:
    """Everything that is found in a file of this content."""
    folder = tmp_path / "models" / "some"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(MODEL))
    models = Catalogue((tmp_path / "models",), None, ModelCache(tmp_path / "kept"))

    def check(text: str) -> LintResult:
        path = write()
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        found = asyncio.run(lint_file(path, models, NothingThere().look, None, date(2026, 1, 31)))
        assert found.away is None
        assert all(
            one.where.startswith("p.yaml:") and one.message.strip() for one in found.problems
        )
        return found

    return check


@ONE_FOLDER
@given(
    spoilt=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 6), SPOILT | WORDS), max_size=3)
)
def test_a_pipeline_with_pieces_torn_out_is_checked_to_the_end(
    checked: Callable[[str], LintResult], pipeline_text: str, spoilt: list[tuple[int, int, str]]
) -> None:
    text = pipeline_text
    for at, length, new in spoilt:
        at = at % len(text)  # noqa: PLW2901  # a place in what is left
        text = text[:at] + new + text[at + length :]
    checked(text)


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


@ONE_FOLDER
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), VALUES | st.just(...)), max_size=3))
def test_a_pipeline_with_any_value_in_any_place_is_checked_to_the_end(
    checked: Callable[[str], LintResult],
    pipeline_text: str,
    tmp_path: Path,
    changes: list[tuple[int, Any]],
) -> None:
    (tmp_path / "right.yaml").write_text(pipeline_text)
    data = {**load_yaml(tmp_path / "right.yaml").data, "limits": {"timeout": "1m"}, "env": []}
    for number, value in changes:
        if places := _places(data):
            parent, key = places[number % len(places)]
            if value is not ...:
                parent[key] = value
            else:
                del parent[key]
    checked(json.dumps(data, ensure_ascii=False))


RIGHT_INPUT = {
    "prompt": "x",
    "image_urls": ["a.jpg", "b.jpg"],
    "seed": 1,
    "ratio": "1:1",
    "options": {"on": True, "sizes": [1, [2]]},
}


@given(opened=st.sets(st.integers(0, 20), max_size=6))
def test_a_template_is_no_mistake_wherever_a_right_value_may_come_out_of_it(
    opened: set[int],
) -> None:
    inputs = json.loads(json.dumps(RIGHT_INPUT))
    for number, (parent, key) in reversed(list(enumerate(_places(inputs)))):
        if number in opened:
            parent[key] = "{{ item.value }}"
    step = {"model": "some/model", "input": inputs}
    located = LocatedYaml(Path("p.yaml"), {"steps": {"edit": step}})

    assert named_models(located) == ("some/model",)
    assert static_mistakes(located, {"some/model": ModelEntry.model_validate(MODEL)}) == []
