"""`!file`: a text from a file beside the pipeline, and from nowhere else."""

import os
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid, UsageError
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder of prompts, and a secret beside it."""
    (tmp_path / "project" / "prompts").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("SECRET")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def read(value: str) -> LocatedYaml:
    Path("p.yaml").write_text(f"a: 1\nprompt: {value}\n")
    return load_yaml(Path("p.yaml"))


def mistake(value: str) -> str:
    with pytest.raises(InputInvalid) as caught:
        read(value)
    [problem] = caught.value.problems
    return str(problem)


def test_the_text_of_a_file_stands_where_it_is_named() -> None:
    Path("prompts/office.md").write_text("An office\nfor {{ item.stem }}, 1:1.\n")

    located = read("!file prompts/office.md")

    assert located.data["prompt"] == "An office\nfor {{ item.stem }}, 1:1."
    assert located.where(("prompt",)) == "p.yaml:2:1"


def test_a_text_that_looks_like_a_number_or_yaml_stays_text() -> None:
    for text in ("07", "true", "", "a: [1", "!file x"):
        Path("prompts/odd").write_text(text)
        assert read("!file prompts/odd").data["prompt"] == text


def test_an_editors_habits_make_no_other_text() -> None:
    for content in (b"a\nb", b"a\nb\n", b"a\r\nb\r\n", b"a\rb\n\n", b"\xef\xbb\xbfa\nb\n"):
        Path("prompts/p.md").write_bytes(content)
        assert read("!file prompts/p.md").data["prompt"] == "a\nb"


def test_a_name_may_be_quoted_and_stand_in_a_list_or_behind_an_anchor() -> None:
    Path("prompts/two words.md").write_text("x")

    assert read('["!file", !file "prompts/two words.md"]').data["prompt"] == ["!file", "x"]
    assert read("&p !file prompts/two words.md\nagain: *p").data["again"] == "x"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("!file prompts/offic.md", "there is no file prompts/offic.md; did you mean `off"),
        ("!file promts/office.md", "there is no file promts/office.md; there is no folder promts"),
        ("!file prompts", "prompts is not a file; name a file in"),
        ("!file", "`!file` takes the plain path of a text file, not ''"),
        ("!file ../secret.txt", "../secret.txt lies outside of the working directory"),
        ("!file /etc/hostname", "/etc/hostname lies outside of the working directory"),
        ("!file prompts/link", "prompts/link lies outside"),
        ("!file prompts/loop", "prompts/loop"),
        ("!file prompts/fifo", "prompts/fifo is not a file"),
        ("!file prompts/latin", "prompts/latin is not UTF-8 text (its line 2); save the file in"),
        ("!file prompts/large", "prompts/large is larger than 1 MB"),
        ('!file "prompts/{{ item.stem }}.md"', "`!file` takes the plain path"),
        ("!file [prompts/office.md]", "`!file` takes the name of one text file"),
        ('!file "a\\0b"', "cannot be read: embedded null byte"),
        ("!files prompts/office.md", "the YAML tag !files is not allowed"),
    ],
)
def test_what_is_no_text_of_the_project_is_a_located_mistake(
    here: Path, written: str, said: str
) -> None:
    prompts = here / "prompts"
    (prompts / "office.md").write_text("x")
    (prompts / "link").symlink_to(here.parent / "secret.txt")
    (prompts / "loop").symlink_to("loop")
    os.mkfifo(prompts / "fifo")
    (prompts / "latin").write_bytes(b"a\ncaf\xe9\n")
    (prompts / "large").write_bytes(b"x" * (2**20 + 1))

    told = mistake(written)

    assert told.startswith("p.yaml:2:9: ")
    assert said in told
    assert "SECRET" not in told


def test_a_link_within_the_project_and_a_text_of_the_largest_size_are_read(here: Path) -> None:
    (here / "prompts" / "real.md").write_bytes(b"x" * 2**20)
    (here / "prompts" / "link").symlink_to("real.md")

    assert len(read("!file prompts/link").data["prompt"]) == 2**20


@pytest.mark.parametrize("value", ["!file prompts/office.md", "!file", "[!file prompts/office.md]"])
def test_the_command_line_cannot_read_files(here: Path, value: str) -> None:
    (here / "prompts" / "office.md").write_text("x")

    with pytest.raises(UsageError, match="`!file` works in YAML files"):
        apply_overrides(read("y"), [f"prompt={value}"])
