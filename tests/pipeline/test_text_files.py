"""`!file`: a text from a file beside the pipeline, and from nowhere else."""

import os
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid, UsageError
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of prompts in the working directory, and a secret beside that."""
    (tmp_path / "project" / "prompts").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("SECRET")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project" / "prompts"


def read(value: str) -> LocatedYaml:
    Path("p.yaml").write_text(f"a: 1\nprompt: {value}\n")
    return load_yaml(Path("p.yaml"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"An office\nfor {{ item.stem }}, 1:1.\n", "An office\nfor {{ item.stem }}, 1:1."),
        (b"07", "07"),
        (b"a: [1", "a: [1"),
        (b"!file x", "!file x"),
        # An editor's habits make no other text.
        (b"a\r\nb\r\n", "a\nb"),
        (b"a\rb\n\n", "a\nb"),
        (b"\xef\xbb\xbfa\nb\n", "a\nb"),
        (b"x" * 2**20, "x" * 2**20),
    ],
)
def test_the_text_of_a_file_stands_where_it_is_named(
    prompts: Path, content: bytes, text: str
) -> None:
    (prompts / "two words.md").write_bytes(content)
    (prompts / "link").symlink_to("two words.md")

    located = read('!file "prompts/two words.md"')

    assert located.data["prompt"] == text
    assert located.where(("prompt",)) == "p.yaml:2:1"
    assert read("&p ['!file', !file prompts/link]\nagain: *p").data["again"] == ["!file", text]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("!file prompts/offic.md", "there is no file prompts/offic.md; did you mean `office.md`?"),
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
        ("!file prompts/picture", "prompts/picture contains control characters"),
        ('!file "prompts/{{ item.stem }}.md"', "`!file` takes the plain path"),
        ("!file [prompts/office.md]", "`!file` takes the name of one text file"),
        ('!file "a\\0b"', "cannot be read: embedded null byte"),
        ("!files prompts/office.md", "the YAML tag !files is not allowed"),
    ],
)
def test_what_is_no_text_of_the_project_is_a_located_mistake(
    prompts: Path, written: str, said: str
) -> None:
    (prompts / "office.md").write_text("x")
    (prompts / "link").symlink_to("../../secret.txt")
    (prompts / "loop").symlink_to("loop")
    os.mkfifo(prompts / "fifo")
    (prompts / "latin").write_bytes(b"a\ncaf\xe9\n")
    (prompts / "picture").write_bytes(b"GIF89a\x01\x00")
    (prompts / "large").write_bytes(b"x" * (2**20 + 1))

    with pytest.raises(InputInvalid) as caught:
        read(written)

    [told] = map(str, caught.value.problems)
    assert told.startswith("p.yaml:2:9: ")
    assert said in told
    assert "SECRET" not in told


@pytest.mark.parametrize("value", ["!file prompts/office.md", "!file", "[!file prompts/office.md]"])
def test_the_command_line_cannot_read_files(prompts: Path, value: str) -> None:
    (prompts / "office.md").write_text("x")

    with pytest.raises(UsageError, match="`!file` works in YAML files only"):
        apply_overrides(read("y"), [f"prompt={value}"])
