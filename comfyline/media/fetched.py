"""Outputs as they arrive: each has to be a whole picture, video or sound before it is stored."""

from pathlib import Path

from comfyline.errors import BrokenOutput
from comfyline.media.containers import is_cut_short
from comfyline.media.kinds import media_type_of
from comfyline.media.pictures import look_at_picture


def prove_whole(path: Path, head: bytes, expected: str) -> str:
    """The media type of a fetched file that is proved to be a whole picture, video or sound.

    `expected` names what the model makes (`image`, `video`, `audio`, or empty when unknown).
    Raises `BrokenOutput`. Blocking: pictures are decoded, so call it in a thread.
    """
    media_type = media_type_of(head)
    if not media_type:
        shown = head[:40].decode("utf-8", "replace").strip()
        raise BrokenOutput(f"An output is no picture, video or sound; it begins with {shown!r}")
    if expected and not media_type.startswith(f"{expected}/"):
        raise BrokenOutput(f"An output is {media_type}, but the model makes {expected}")
    with path.open("rb") as file:
        if is_cut_short(file, head):
            raise BrokenOutput(f"An output is a {media_type} that is cut short")
        if media_type.startswith("image/") and (flaw := look_at_picture(file, media_type).flaw):
            raise BrokenOutput(f"An output is a broken {media_type}: it {flaw}")
    return media_type
