"""YAML as it is read: its values, where each of them stands, and what is no YAML in words."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid, UsageError
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml, read_yaml


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str) -> LocatedYaml:
    Path("a.yaml").write_bytes(text.encode())
    return load_yaml(Path("a.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        read(text)
    return [str(problem).removeprefix("a.yaml:") for problem in caught.value.problems]


def test_only_what_yaml_1_2_calls_a_number_is_one() -> None:
    words = {"1:1": "1:1", "yes": "yes", "2026-01-31": "2026-01-31", "1_000": "1_000", "'3'": "3"}
    words |= {"0x1F": 31, "1e3": 1000.0, "~": None, "True": True}

    read_as = read("".join(f"k{at}: {word}\n" for at, word in enumerate(words))).data.values()

    assert list(read_as) == list(words.values())


@pytest.mark.parametrize("word", ["08", "007", "-01", "00", "007.5", "+08", "00e1"])
def test_a_leading_zero_is_a_question_and_no_guess(word: str) -> None:
    [found] = mistakes(f"a: 1\nb: {word}\n")

    assert found.startswith(f"2:4: {word} is a number with a leading zero")
    assert f'; write "{word}" in quotes for a text, or ' in found
    assert read(f'b: "{word}"\n{word}: key\n').data == {"b": word, word: "key"}


def test_each_value_is_located_in_block_flow_anchored_and_merged_yaml() -> None:
    located = read("""\
a: &x
  p: 1
  q: [1, {z: 3}]
b:
  <<: *x
  r: 2
  p: 5
c: *x
d:
  - one
  - k: v
""")

    assert located.data["b"] == {"r": 2, "p": 5, "q": [1, {"z": 3}]}
    places = {
        ("a", "p"): "2:3", ("a", "q", 1): "3:10", ("a", "q", 1, "z"): "3:11", ("b", "p"): "7:3",
        ("b", "q", 0): "3:7", ("c",): "8:1", ("c", "p"): "2:3", ("d", 0): "10:5",
        ("d", 1, "k"): "11:5",
        # What was never written is at its nearest parent.
        ("a", "nope", 3): "1:1", ("nope",): "1:1",
    }  # fmt: skip
    assert {at: located.where(at) for at in places} == {
        at: f"a.yaml:{place}" for at, place in places.items()
    }


LAUGHS = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
LAUGHS += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("- 1\n", "1:1: the file should be a mapping (key: value), not a list"),
        ("a: 1\nb: {c: 1, c: 2}\n", "2:11: duplicate key `c`; the first one is on line 2"),
        ("b:\n  - y: 1\n    y: 2\n", "3:5: duplicate key `y`; the first one is on line 2"),
        ("1: a\n'1': b\n", "2:1: duplicate key `1`; the first one is on line 1"),
        ("a: [1\n", "2:1: not valid YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("a: *x\n", "1:4: not valid YAML: found undefined alias 'x'"),
        ("a:\n  b: \x07\n", "2:6: not valid YAML: a control character"),
        ("a: &x 1\nb: &x 2\n", "2:4: not valid YAML: found duplicate anchor 'x'"),
        ('a: "\\U00110000"\n', "1:1: not valid YAML: "),
        ("a: 1\nb: x\u2028y\n", "2:5: an invisible line break (U+2028); remove it"),
        ("a: [x?v=2]\n", "1:6: not valid YAML: while parsing a flow sequence: expected"),
        ("a: &x [*x]\n", "1:4: the value contains itself through an anchor"),
        ("a: !!python/object:os.system x\n", "1:4: the YAML tag tag:yaml.org,2002:python"),
        ("a: .nan\n", "1:4: .nan is not a number that JSON can represent"),
        (f"a: {'9' * 5000}\n", "1:4: 99999999999999999999 is not a number that JSON can"),
        ("a: {{ item.x }}\n", "1:5: a key should be text, not a list or a mapping; put quotes"),
        ("a: {{ x }} y\n", "1:12: not valid YAML: while parsing a block mapping"),
        ('a: "\\ud800"\n', "1:4: the text contains half a character"),
        ("\n".join(LAUGHS), "1:5: the document grows too large through its anchors"),
        ("a: " + "[" * 900, "1:1: the YAML is nested too deeply"),
        ("a: " + "[" * 90 + "]" * 90, "1:54: the YAML is nested too deeply"),
    ],
)
def test_a_mistake_in_the_yaml_is_a_located_sentence(text: str, expected: str) -> None:
    assert mistakes(text)[0].startswith(expected)


def test_ten_thousand_items_of_many_fields_are_no_document_that_grows_too_large() -> None:
    row = ", ".join(f"k{number}: x" for number in range(15))
    aliases = ", ".join(["*row"] * 9_999)
    Path("a.yaml").write_text(f"items: [&row {{{row}}}, {aliases}]\n")

    assert len(load_yaml(Path("a.yaml")).data["items"]) == 10_000


def test_a_file_with_mistakes_is_read_as_far_as_it_goes() -> None:
    Path("a.yaml").write_text("a: 07\nb:\n  c: [1, !x y]\nd: 1\nd: 2\ne: fine\n")

    read_so_far = read_yaml(Path("a.yaml"))

    assert len(read_so_far.problems) == 3
    assert read_so_far.located is not None
    assert read_so_far.located.data["e"] == "fine"
    assert read_so_far.flawed == {"a.yaml:1:1", "a.yaml:3:10"}


def test_what_is_no_file_of_text_is_refused() -> None:
    Path("office.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    for name, said in (
        ("ofice.yaml", r"there is no such file; did you mean `office\.yaml`\?"),
        ("office.yaml", ":2:7: the file is not UTF-8 text"),
        (".", "cannot be read"),
    ):
        with pytest.raises(InputInvalid, match=said):
            load_yaml(Path(name))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("4", 4),
        ("1:1", "1:1"),
        ("[1:1, 16:9]", ["1:1", "16:9"]),
        ("{a: true}", {"a": True}),
        ("", None),
        ("'4'", "4"),
        ("Studio: soft light", "Studio: soft light"),
        ("{{ item.name }}", "{{ item.name }}"),
        ("*.jpg", "*.jpg"),
        ("@photo.jpg", "@photo.jpg"),
    ],
)
def test_an_override_is_a_yaml_scalar_or_flow(written: str, expected: object) -> None:
    located = read("a: 1\n")

    assert apply_overrides(located, [f"b.c={written}"]).data == {"a": 1, "b": {"c": expected}}
    assert located.data == {"a": 1}


def test_what_an_override_sets_is_located_at_the_override() -> None:
    located = apply_overrides(read("a: {b: 1, c: [1, 2]}\n"), ["a.c.1=x", "d.e=2"])

    assert located.data == {"a": {"b": 1, "c": [1, "x"]}, "d": {"e": 2}}
    assert located.where(("a", "c", 1)) == "--set a.c.1=x"
    assert located.where(("d", "e")) == "--set d.e=2"
    assert located.where(("a", "b")) == "a.yaml:1:5"


@pytest.mark.parametrize(
    "override",
    [
        "a",
        "=1",
        "extends=b.yaml",
        "a..b=1",
        "a.b=1",
        "l.7=1",
        "l.x=1",
        "x=[1",
        "x=[!file a.yaml]",
        "x=!file a",
    ],
)
def test_an_override_that_cannot_be_applied_is_a_usage_error(override: str) -> None:
    with pytest.raises(UsageError):
        apply_overrides(read("a: 1\nl: [1]\n"), [override])


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(max_size=30))
def test_any_override_is_applied_or_a_usage_error(key: str, value: str) -> None:
    located = LocatedYaml(Path("a"), {"a": {"b": [1]}})
    with contextlib.suppress(UsageError):
        assert apply_overrides(located, [f"{key}={value}"]).where()


def extended(**texts: str) -> LocatedYaml:
    """Files by name, of which the first is read."""
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)
    return load_yaml(Path(f"{next(iter(texts))}.yaml"))


def test_mappings_are_merged_and_the_nearer_file_wins() -> None:
    located = extended(
        a="extends: b.yaml\nx: {p: 1, l: [1]}\nn: {y: null}\nv: 1\nw: {k: 2}\nu: null\n",
        b="extends: c.yaml\nx: {p: 0, q: {r: 2}, l: [7, 8]}\nn: {y: 1, z: 2}\nv: {k: v}\nw: 3\n",
        c="x: {p: 2, last: 3}\nt: null\n",
    )

    assert located.data == {
        "x": {"p": 1, "q": {"r": 2}, "l": [1], "last": 3},
        "n": {"z": 2},
        "v": 1,
        "w": {"k": 2},
        "u": None,
        "t": None,
    }
    assert located.where(("x", "last")) == "c.yaml:1:11"


def test_each_value_keeps_the_place_at_which_it_was_written() -> None:
    located = extended(
        a="extends: b.yaml\nx:\n  p: 1\nl: [1]\ngone: null\n",
        b="x:\n  p: 0\n  q: 2\nl: [7, 8, 9]\ngone: {k: 1}\nnumber: 0x1F\n",
    )

    places = {
        ("x",): "a.yaml:2:1", ("x", "p"): "a.yaml:3:3", ("x", "q"): "b.yaml:3:3",
        ("l", 0): "a.yaml:4:5", ("l", 1): "a.yaml:4:1", ("gone", "k"): "a.yaml:5:1",
        ("number",): "b.yaml:6:1", ("never",): "a.yaml:1:1",
    }  # fmt: skip
    assert {at: located.where(at) for at in places} == places


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            {"a": "k: 1\nextends: bsae.yaml\n", "base": "x: 1\n"},
            ["a.yaml:2:1: bsae.yaml: there is no such file; did you mean `base.yaml`?"],
        ),
        (
            {"a": "extends: b.yaml\n", "b": "x: 1\nextends: ./c.yaml\n", "c": "extends: b.yaml\n"},
            ["c.yaml:1:1: `extends` forms a circle: b.yaml → c.yaml → b.yaml"],
        ),
        ({"a": "extends: [b.yaml]\n"}, ["a.yaml:1:1: `extends` should be the plain path of one f"]),
        ({"a": "extends: '{{ x }}.yaml'\n"}, ["a.yaml:1:1: `extends` should be the plain path"]),
        ({"a": 'extends: "a\\0"\n'}, ["a.yaml:1:1: a\0: the file cannot be read: "]),
        ({"a": "extends: b.yaml\n", "b": ""}, ["b.yaml:1:1: the file is empty"]),
        ({"a": "extends: b.yaml\n", "b": "[1]"}, ["b.yaml:1:1: the file should be a mapping"]),
        (
            {"a": "extends: b.yaml\nx: 07\n", "b": "extends: c.yaml\ny: .nan\n", "c": "z: 1\nz: 2"},
            ["a.yaml:2:4: 07 is a number with", "b.yaml:2:4: .nan is", "c.yaml:2:1: duplicate"],
        ),
    ],
)
def test_the_mistakes_of_all_files_are_told_at_once(
    texts: dict[str, str], expected: list[str]
) -> None:
    with pytest.raises(InputInvalid) as caught:
        extended(**texts)

    found = [str(problem) for problem in caught.value.problems]
    assert [one[: len(begin)] for one, begin in zip(found, expected, strict=True)] == expected
