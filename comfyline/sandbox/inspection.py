"""Opens what was fetched, to see that it is what its field asks for, whole, and within its rules.

Blocking: decoders are slow, so it is called in a thread. Sizes are those of the picture as it is
shown, after its EXIF orientation.
"""

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from PIL import Image

from comfyline.sandbox.dialect import MediaValue
from comfyline.sandbox.inputs import Unusable
from comfyline.sandbox.rules import Measures, broken_rule

# A playlist would have FFmpeg open whatever it names; none of these formats can name a file.
READABLE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
    ",mp3,wav,flac,ogg,aac,aiff,amr,caf",
}
"""The options with which FFmpeg opens a file of a stranger's."""

_TURNED = {5, 6, 7, 8}
_ORIENTATION = 0x0112
_LEAST_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Material:
    """One input that was fetched and is fit for use."""

    path: Path
    kind: str
    measures: Measures
    has_sound: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels, None for a sound."""
        measures = self.measures
        return (measures.width, measures.height) if measures.width and measures.height else None


def inspect(path: Path, media: MediaValue) -> Material:
    """Open a fetched file. Raises Unusable: it is none, it is broken, or it breaks a rule."""
    field = ".".join(str(part) for part in media.path)
    material = _picture(path, field) if media.kind == "image" else _recording(path, media, field)
    if sentence := broken_rule(media.rules, material.measures):
        raise Unusable(f"{field}: {sentence}")
    return material


def _picture(path: Path, field: str) -> Material:
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if picture.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports broken PNG chunks as a SyntaxError.
        raise Unusable(f"{field}: the file is no picture that can be read") from error
    return Material(path, "image", Measures(path.stat().st_size, width, height))


def _recording(path: Path, media: MediaValue, field: str) -> Material:
    try:
        with av.open(str(path), options=READABLE) as container:
            return _measured(path, container, media.kind, field)
    except (av.error.FFmpegError, ValueError) as error:
        article = "a video" if media.kind == "video" else "a sound"
        raise Unusable(f"{field}: the file is not {article} that can be read") from error


def _measured(path: Path, container: InputContainer, kind: str, field: str) -> Material:
    videos, sounds = container.streams.video, container.streams.audio
    if not (videos if kind == "video" else sounds):
        raise Unusable(f"{field}: the file holds no {kind}")
    stream = (videos if kind == "video" else sounds)[0]
    promised = float((stream.duration or 0) * (stream.time_base or 0))
    first, reached = None, 0.0
    for packet in container.demux(stream):
        # One picture proves the decoder; that the rest is there is seen without decoding it.
        first = first or next(iter(packet.decode()), None)
        if packet.pts is not None and packet.time_base is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if first is None:
        raise Unusable(f"{field}: the file holds no {kind} that can be decoded")
    if reached < _LEAST_SHARE * promised:
        raise Unusable(f"{field}: the file is cut short: {reached:.1f} of {promised:.1f} seconds")
    width, height = (videos[0].width, videos[0].height) if kind == "video" else (None, None)
    measures = Measures(path.stat().st_size, width, height, promised or reached)
    return Material(path, kind, measures, has_sound=bool(sounds))
