"""Outputs as they arrive: each has to be a whole picture, video or sound before it is stored."""

from pathlib import Path

from comfyline.errors import BrokenOutput
from comfyline.job import MediaKind
from comfyline.media.probe import examine
from comfyline.media.types import HEAD_BYTES, SVG, kind_of, media_type_of, media_type_of_name


def prove_beginning(head: bytes, expected: MediaKind | None, *, svg: bool = False) -> None:
    """Refuses a file that is no medium, or one of another kind, by its first bytes alone.

    Raises `BrokenOutput`. A container for videos may hold a sound only, which is seen later. With
    `svg` a drawing is taken for a picture.
    """
    media_type = _known(head, svg=svg)
    is_sound = expected == "audio" and media_type.startswith("video/")
    if not is_sound:
        _refuse_other(media_type, expected)


def prove_whole(path: Path, expected: MediaKind | None, *, svg: bool = False) -> str:
    """The media type of a fetched file that is proved to be a whole picture, video or sound.

    A picture is decoded to its last pixel, of a video or a sound the structure is read and the
    beginning decoded. `expected` is what it has to be, None where that is not known. Raises
    `BrokenOutput`. Blocking: call it in a thread.
    """
    with path.open("rb") as file:
        media_type = _known(file.read(HEAD_BYTES), svg=svg)
        look = examine(file, media_type)
    if look.flaw:
        raise BrokenOutput(f"An output is a broken {media_type}: it {look.flaw}")
    _refuse_other(look.media_type, expected)
    return look.media_type


def is_format(media_type: str, wanted: str) -> bool:
    """Whether a file is of the format that was asked for; also where the format is not known."""
    named = media_type_of_name(f".{wanted}")
    return not named or named.partition("/")[2] == media_type.partition("/")[2]


def kind_of_format(wanted: str) -> MediaKind | None:
    """The kind of media of a format such as `png` or `mp4`; None where it names none."""
    return kind_of(media_type_of_name(f".{wanted}"))


def _known(head: bytes, *, svg: bool) -> str:
    media_type = media_type_of(head)
    if media_type == SVG and not svg:
        raise BrokenOutput(
            "An output is an SVG drawing, which is no picture: it may run scripts",
            hint="Write `accept: [svg]` under the pipeline's `output` and run again: it is fetched "
            "then, and not paid for again.",
        )
    if not media_type:
        shown = head[:40].decode("utf-8", "replace").strip()
        raise BrokenOutput(f"An output is no picture, video or sound; it begins with {shown!r}")
    return media_type


def _refuse_other(media_type: str, expected: MediaKind | None) -> None:
    kind = "image" if media_type == SVG else kind_of(media_type)
    if expected and kind != expected:
        raise BrokenOutput(f"An output is {media_type}, and the model makes {expected}")
