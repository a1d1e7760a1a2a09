"""Mistakes of a document in words: what was due, what was written, what to write instead."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from comfyline.errors import InputInvalid
from comfyline.yaml.file import load_yaml
from comfyline.yaml.validate import validate_document


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: int = 0


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = ""
    number: float = 0
    whole: int | None = None
    truth: bool = False
    choice: bool | Literal["items", "rows"] = False
    either: str | list[Any] | None = None
    format: Literal["png", "jpeg"] | None = None
    inner: dict[str, Inner] = {}
    many: Annotated[list[int], Field(max_length=2, description="Up to two numbers.")] = []


def mistakes(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "d.yaml"
    path.write_text(text)
    with pytest.raises(InputInvalid) as caught:
        validate_document(load_yaml(path), Document)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text: 0x1F", "should be text, not a number (31); write it in quotes"),
        ("text: True", "should be text, not true; write it in quotes"),
        ("truth: yes", "should be true or false, not the text 'yes'; write `true`: yes is a text"),
        ("truth: Off", "should be true or false, not the text 'Off'; write `false`: Off is a text"),
        ('truth: "true"', "not the text 'true'; write it without quotes: `true`"),
        ("number: 1_000", "should be a number, not the text '1_000'; write `1000`, without"),
        ('whole: "3"', "should be a whole number, not the text '3'; write it without quotes: `3`"),
        ("whole: none", "not the text 'none'; leave it out"),
        ("choice: no", "should be true or false or `items` or `rows`, not the text 'no'; write `f"),
        ("choice: item", "not the text 'item'; did you mean `items`?"),
        ("either: 3", "should be text or a list, not a number (3)"),
        ("format: pgn", "should be `png` or `jpeg`, not the text 'pgn'; did you mean `png`?"),
        ("many: [1, 2, 3]", "should have at most 2 entries, but has 3; many: Up to two numbers"),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_to_write(
    tmp_path: Path, text: str, expected: str
) -> None:
    [found] = mistakes(tmp_path, text + "\n")

    assert found.startswith("1:1: ")
    assert expected in found


def test_a_mistake_deep_inside_is_at_its_own_place(tmp_path: Path) -> None:
    text = "inner:\n  a: {count: 1}\n  b: {count: x, cuont: 1}\nmany:\n  - 1\n  - x\n"

    assert [line.split(" ")[0] for line in mistakes(tmp_path, text)] == ["3:7:", "3:17:", "6:5:"]
