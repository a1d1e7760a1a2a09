"""Texts that YAML takes from a file: `prompt: !file prompts/office.md`."""

from difflib import get_close_matches
from pathlib import Path, PurePath

from comfyline.yaml.scalars import OddScalar

MOST_BYTES = 2**20
"""The largest text file that is read: a prompt of more is a mistake."""


def read_text_file(written: str) -> str:
    """The text of a file, named relative to the working directory.

    Line ends become the plain ones and those at the end are cut, so that no editor's habit makes
    another job of the same prompt. Raises `OddScalar` for what is no UTF-8 text of up to 1 MB, and
    for a file that lies, or that a link puts, outside of the working directory.
    """
    path = _inside(written)
    try:
        if not path.is_file():
            raise _missing(written, path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, OddScalar):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise OddScalar(f"{written} cannot be read: {reason}") from None
    if len(content) > MOST_BYTES:
        raise OddScalar(f"{written} is larger than 1 MB", "a text is read from it, not a picture")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        hint = "save the file in UTF-8"
        raise OddScalar(f"{written} is not UTF-8 text (its line {line})", hint) from None
    if any(character < " " and character not in "\t\r\n" for character in text):
        raise OddScalar(f"{written} holds control characters: it is no text file")
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def _inside(written: str) -> Path:
    """The file that is meant, with all links followed."""
    hint = "name a file in the working directory, such as prompts/office.md"
    if not written.strip():
        raise OddScalar("`!file` names no file", hint)
    if "{{" in written or "{%" in written:
        raise OddScalar("`!file` takes a plain path; templates are for the text in the file", hint)
    named = PurePath(written)
    if named.is_absolute() or written.startswith("~") or ".." in named.parts:
        raise OddScalar(f"{written} lies outside of the working directory", hint)
    try:
        root, path = Path.cwd(), Path(written).resolve()
    except (OSError, ValueError, RuntimeError):  # a zero byte, a link to itself
        raise OddScalar(f"{written!r} is not the name of a file", hint) from None
    if not path.is_relative_to(root.resolve()):
        raise OddScalar(f"{written} is a link that leads out of the working directory", hint)
    return path


def _missing(written: str, path: Path) -> OddScalar:
    if path.is_dir():
        return OddScalar(f"{written} is a folder", "name a file in it")
    if path.exists():
        return OddScalar(f"{written} is no ordinary file")
    if not path.parent.is_dir():
        return OddScalar(
            f"there is no file {written}", f"there is no folder {PurePath(written).parent}"
        )
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = get_close_matches(path.name, names, n=1)
    meant = PurePath(written).with_name(near[0]) if near else None
    return OddScalar(f"there is no file {written}", f"did you mean `{meant}`?" if meant else "")
