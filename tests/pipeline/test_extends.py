"""`extends`: a file that goes on from another one, and where each value was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from comfyline.pipeline.document import load_pipeline
from comfyline.yaml.file import LocatedYaml, load_yaml

Files = Callable[..., LocatedYaml]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Writes files by name and reads the first."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> LocatedYaml:
        for name, text in texts.items():
            Path(f"{name}.yaml").write_text(text)
        return load_yaml(Path(f"{next(iter(texts))}.yaml"))

    return write


def mistakes(files: Files, **texts: str) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        files(**texts)
    return [str(problem) for problem in caught.value.problems]


def test_mappings_are_merged_and_the_nearer_file_wins(files: Files) -> None:
    located = files(
        a="extends: b.yaml\nx: {p: 1, l: [1]}\nn: {y: null}\nv: 1\nw: {k: 2}\nu: null\n",
        b="x: {p: 0, q: {r: 2, s: 3}, l: [7, 8, 9]}\nn: {y: 1, z: 2}\nv: {k: v}\nw: 3\nt: null\n",
    )

    assert located.data == {
        "x": {"p": 1, "q": {"r": 2, "s": 3}, "l": [1]},
        "n": {"z": 2},
        "v": 1,
        "w": {"k": 2},
        "u": None,
        "t": None,
    }
    assert located.path == Path("a.yaml")


def test_each_value_keeps_the_place_at_which_it_was_written(files: Files) -> None:
    located = files(
        a="extends: b.yaml\nx:\n  p: 1\nl: [1]\ngone: null\n",
        b="x:\n  p: 0\n  q: 2\nl: [7, 8]\ngone: {k: 1}\nnumber: 0x1F\n",
    )

    places = {
        ("x",): "a.yaml:2:1",
        ("x", "p"): "a.yaml:3:3",
        ("x", "q"): "b.yaml:3:3",
        ("l", 0): "a.yaml:4:5",
        ("l", 1): "a.yaml:4:1",
        ("gone", "k"): "a.yaml:5:1",
        ("number",): "b.yaml:6:1",
        ("never",): "a.yaml:1:1",
    }
    assert {at: located.where(at) for at in places} == places


def test_a_base_may_extend_another_one(files: Files) -> None:
    located = files(
        a="extends: b.yaml\nx: {a: 1}\n",
        b="extends: c.yaml\nx: {a: 2, b: 2}\n",
        c="x: {a: 3, b: 3, c: 3}\n",
    )

    assert located.data == {"x": {"a": 1, "b": 2, "c": 3}}
    assert located.where(("x", "c")) == "c.yaml:1:17"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            {"a": "k: 1\nextends: bsae.yaml\n", "base": "x: 1\n"},
            "a.yaml:2:1: bsae.yaml: there is no such file; did you mean `base.yaml`?",
        ),
        ({"a": "extends: a.yaml\n"}, "a.yaml:1:1: `extends` forms a circle: a.yaml → a.yaml"),
        (
            {"a": "extends: b.yaml\n", "b": "x: 1\nextends: ./c.yaml\n", "c": "extends: b.yaml\n"},
            "c.yaml:1:1: `extends` forms a circle: b.yaml → c.yaml → b.yaml",
        ),
        (
            {"a": "extends: [b.yaml]\n"},
            "a.yaml:1:1: `extends` should be the plain path of one file",
        ),
        ({"a": "extends: ''\n"}, "a.yaml:1:1: `extends` should be the plain path of one file"),
        ({"a": "extends: '{{ x }}.yaml'\n"}, "a.yaml:1:1: `extends` should be the plain path"),
        ({"a": 'extends: "a\\0"\n'}, "a.yaml:1:1: a\0: the file cannot be read: "),
        ({"a": "extends: .\n"}, "a.yaml:1:1: .: the file cannot be read: Is a directory"),
        ({"a": "extends: b.yaml\n", "b": ""}, "b.yaml:1:1: the file is empty"),
        ({"a": "extends: b.yaml\n", "b": "[1]"}, "b.yaml:1:1: the file should be a mapping"),
    ],
)
def test_what_cannot_be_extended_is_a_located_mistake(
    files: Files, texts: dict[str, str], expected: str
) -> None:
    [found] = mistakes(files, **texts)

    assert found.startswith(expected)


def test_the_mistakes_of_all_files_are_told_at_once(files: Files) -> None:
    found = mistakes(
        files,
        a="extends: b.yaml\nx: 07\n",
        b="extends: c.yaml\ny: .nan\n",
        c="z: 1\nz: 2\n",
    )

    assert [line.split(": ")[0] for line in found] == ["a.yaml:2:4", "b.yaml:2:4", "c.yaml:2:1"]


def test_the_command_line_wins_over_the_file_and_the_file_over_its_base(
    files: Files, pipeline_text: str
) -> None:
    files(
        a="extends: b.yaml\nlimits: {in_flight: 2, timeout: 2s}\n",
        b=pipeline_text + "limits: {in_flight: 1, timeout: 1s, max_cost_usd: 1}\n",
    )

    limits = load_pipeline(Path("a.yaml"), ["limits.in_flight=3"]).document.limits

    assert (limits.in_flight, limits.timeout, limits.max_cost_usd) == (3, 2.0, 1)
    assert limits.max_cost_usd_per_day is None
