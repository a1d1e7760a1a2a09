import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.errors import InputInvalid, UsageError
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml, read_yaml


def read(tmp_path: Path, text: str) -> LocatedYaml:
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode())
    return load_yaml(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        read(tmp_path, text)
    prefix = f"{tmp_path / 'a.yaml'}:"
    return [str(problem).removeprefix(prefix) for problem in caught.value.problems]


def place(located: LocatedYaml, *pointer: str | int) -> str:
    return located.where(pointer).removeprefix(f"{located.path}:")


def test_only_what_yaml_1_2_calls_a_number_is_one(tmp_path: Path) -> None:
    text = "a: 1:1\nb: yes\nc: 2026-01-31\nd: 0x1F\ne: 1e3\nf: ~\ng: True\nh: '3'\ni: 1_000\n"

    values = read(tmp_path, text).data

    assert values == {
        "a": "1:1",
        "b": "yes",
        "c": "2026-01-31",
        "d": 31,
        "e": 1000.0,
        "f": None,
        "g": True,
        "h": "3",
        "i": "1_000",
    }


@pytest.mark.parametrize("word", ["08", "007", "0777", "-01", "00", "007.5", "+08", "00e1"])
def test_a_leading_zero_is_a_question_and_no_guess(tmp_path: Path, word: str) -> None:
    [found] = mistakes(tmp_path, f"a: 1\nb: {word}\n")

    assert found.startswith(f"2:4: {word} is a number with a leading zero")
    assert f'; write "{word}" in quotes for a text, or ' in found
    assert read(tmp_path, f'b: "{word}"\n{word}: key\n').data == {"b": word, word: "key"}


def test_a_number_of_more_digits_than_python_writes_is_a_mistake(tmp_path: Path) -> None:
    for digits in ("9" * 5000, "0x" + "f" * 5000):
        [found] = mistakes(tmp_path, f"a: {digits}\n")
        assert "is not a number that JSON can represent" in found
        assert len(found) < 100


def test_each_value_is_located_in_block_flow_anchored_and_merged_yaml(tmp_path: Path) -> None:
    text = """\
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
"""
    located = read(tmp_path, text)

    assert located.data["b"] == {"r": 2, "p": 5, "q": [1, {"z": 3}]}
    assert place(located, "a", "p") == "2:3"
    assert place(located, "a", "q", 1) == "3:10"
    assert place(located, "a", "q", 1, "z") == "3:11"
    assert place(located, "b", "p") == "7:3"
    assert place(located, "b", "q", 0) == "3:7"
    assert place(located, "c") == "8:1"
    assert place(located, "c", "p") == "2:3"
    assert place(located, "d", 0) == "10:5"
    assert place(located, "d", 1, "k") == "11:5"
    # What was never written is at its nearest parent.
    assert place(located, "a", "nope", 3) == "1:1"
    assert place(located, "nope") == "1:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("- 1\n", "1:1: the file should be a mapping (key: value), not a list"),
        ("a: 1\nb: {c: 1, c: 2}\n", "2:11: duplicate key `c`; the first one is on line 2"),
        ("a: 1\na: 2\n", "2:1: duplicate key `a`; the first one is on line 1"),
        (
            "a: [1\n",
            "2:1: not valid YAML: while parsing a flow sequence: expected ',' or ']'",
        ),
        ("a: *x\n", "1:4: not valid YAML: found undefined alias 'x'"),
        ("a:\n  b: \x07\n", "2:6: not valid YAML: a control character"),
        (
            "a: &x 1\nb: &x 2\nc: *x\n",
            "2:4: not valid YAML: found duplicate anchor 'x'; first occurrence: second occurrence",
        ),
        ('a: "\\U00110000"\n', "1:1: not valid YAML: "),
        ("a: 1\nb: x\u2028y\n", "2:5: an invisible line break (U+2028); remove it"),
        (
            "a: [https://x.io/1.png?v=2]\n",
            "1:23: not valid YAML: while parsing a flow sequence: expected ',' or ']', but",
        ),
        ("a: &x [*x]\n", "1:4: the value contains itself through an anchor"),
        ("a: !!python/object:os.system x\n", "1:4: the YAML tag tag:yaml.org,2002:python"),
        ("a: .nan\n", "1:4: .nan is not a number that JSON can represent"),
        ("a: {{ item.x }}\n", "1:5: a key should be text, not a list or a mapping; put quotes"),
        (
            "a: {{ x }} y\n",
            "1:12: not valid YAML: while parsing a block mapping: expected <block end>",
        ),
        ('a: "\\ud800"\n', "1:4: the text contains half a character"),
    ],
)
def test_a_mistake_in_the_yaml_is_a_located_sentence(
    tmp_path: Path, text: str, expected: str
) -> None:
    [found] = mistakes(tmp_path, text)

    assert found.startswith(expected)


def test_a_duplicate_key_is_found_in_every_style(tmp_path: Path) -> None:
    text = "a: {x: 1, x: 2}\nb:\n  - y: 1\n    y: 2\nc: &c\n  z: 1\n  z: 2\nd: {<<: *c}\n"
    text += "1: a\n'1': b\n"

    assert [line.split(";")[0] for line in mistakes(tmp_path, text)] == [
        "1:11: duplicate key `x`",
        "4:5: duplicate key `y`",
        "7:3: duplicate key `z`",
        "10:1: duplicate key `1`",
    ]


def test_a_file_with_mistakes_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 07\nb:\n  c: [1, !x y]\nd: 1\nd: 2\ne: fine\n")

    read_so_far = read_yaml(path)

    assert len(read_so_far.problems) == 3
    assert read_so_far.located is not None
    assert read_so_far.located.data["e"] == "fine"
    assert read_so_far.flawed == {f"{path}:1:1", f"{path}:3:10"}


def test_a_file_that_is_not_there_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "office.yaml").touch()

    with pytest.raises(InputInvalid, match=r"there is no such file; did you mean `office\.yaml`\?"):
        load_yaml(tmp_path / "ofice.yaml")


def test_a_folder_and_a_file_not_in_utf_8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(InputInvalid, match=r":2:7: the file is not UTF-8 text"):
        load_yaml(tmp_path / "latin.yaml")


def test_a_billion_laughs_end_in_a_mistake(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    assert "too large" in mistakes(tmp_path, "\n".join(lines))[0]


def test_deep_nesting_ends_in_a_mistake(tmp_path: Path) -> None:
    assert "nested too deeply" in mistakes(tmp_path, "a: " + "[" * 900)[0]
    assert "nested too deeply" in mistakes(tmp_path, "a: " + "[" * 90 + "]" * 90)[0]


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
def test_an_override_is_a_yaml_scalar_or_flow(
    tmp_path: Path, written: str, expected: object
) -> None:
    located = read(tmp_path, "a: 1\n")

    assert apply_overrides(located, [f"b.c={written}"]).data == {"a": 1, "b": {"c": expected}}
    assert located.data == {"a": 1}


def test_what_an_override_sets_is_located_at_the_override(tmp_path: Path) -> None:
    located = apply_overrides(read(tmp_path, "a: {b: 1, c: [1, 2]}\n"), ["a.c.1=x", "d.e=2"])

    assert located.data == {"a": {"b": 1, "c": [1, "x"]}, "d": {"e": 2}}
    assert located.where(("a", "c", 1)) == "--set a.c.1=x"
    assert located.where(("d", "e")) == "--set d.e=2"
    assert place(located, "a", "b") == "1:5"


@pytest.mark.parametrize(
    "override", ["a", "=1", "extends=b.yaml", "a..b=1", "a.b=1", "l.7=1", "l.x=1", "x=[1"]
)
def test_an_override_that_cannot_be_applied_is_a_usage_error(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError):
        apply_overrides(read(tmp_path, "a: 1\nl: [1]\n"), [override])


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(max_size=30))
def test_any_override_is_applied_or_a_usage_error(key: str, value: str) -> None:
    located = LocatedYaml(Path("a"), {"a": {"b": [1]}})
    with contextlib.suppress(UsageError):
        located = apply_overrides(located, [f"{key}={value}"])

    assert located.where()
