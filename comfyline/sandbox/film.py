"""Makes a real video: a slow push-in over the inputs' pictures, or over the prompt's scene.

H.264 in an MP4 file. Few frames, each cut out of a larger still by Pillow as three planes of
luminance and colour, so that nothing has to be converted for the encoder.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from comfyline.sandbox import painter
from comfyline.sandbox.inputs import Unusable
from comfyline.sandbox.inspection import READABLE, Material
from comfyline.sandbox.music import RATE
from comfyline.sandbox.sound import SoundFormat, SoundTrack

_CODECS = ("libx264", "libvpx-vp9")
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "24"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"},
}
_AAC = SoundFormat("mp4", "aac", "fltp", 96_000)

# What one film may cost: a film that is longer or larger than usual has fewer frames a second.
_MOST_PIXELS = 200_000_000
_FEWEST_FPS, _MOST_FPS = 2, 10
_MOST_STILLS = 4
_CLOSEST = 1.22
_RESERVE = 1.1

# BT.601 in the narrow range, as H.264 players take it for granted.
_LUMINANCE = [round(16 + value * 219 / 255) for value in range(256)]
_COLOUR = [round(128 + (value - 128) * 224 / 255) for value in range(256)]
_BT601, _NARROW = 6, 1


@dataclass(frozen=True, slots=True)
class FilmOrder:
    """What is to be filmed; `size` in even pixels, `sound` as samples of just this length."""

    words: str
    pictures: tuple[Material, ...]
    size: tuple[int, int]
    seconds: float
    seed: bytes
    sound: Iterator[bytes] | None = None


def frames_per_second(size: tuple[int, int], seconds: float) -> int:
    """How many frames a second a film of this size and length can afford."""
    affordable = _MOST_PIXELS / (size[0] * size[1] * max(1.0, seconds))
    return max(_FEWEST_FPS, min(_MOST_FPS, math.floor(affordable)))


def film(order: FilmOrder, target: Path) -> Iterator[None]:
    """Writes the film frame by frame; between two frames others may work.

    Raises `Unusable` for an input that cannot be decoded.
    """
    rate = frames_per_second(order.size, order.seconds)
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as file:
        stream = _video_stream(file, order.size, rate)
        track = SoundTrack(file, _AAC) if order.sound is not None else None
        for number, frame in enumerate(_frames(order, max(1, round(order.seconds * rate)))):
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
            if track and order.sound:
                _catch_up(track, order.sound, (number + 1) / rate)
            yield
        file.mux(stream.encode(None))
        if track and order.sound:
            _catch_up(track, order.sound, math.inf)
            track.end()


def _catch_up(track: SoundTrack, sound: Iterator[bytes], until: float) -> None:
    """Writes sound up to a moment, so that the file need not hold one track back for the other."""
    while track.written < until * RATE and (samples := next(sound, None)) is not None:
        track.write(samples)


def _video_stream(file: OutputContainer, size: tuple[int, int], rate: int) -> VideoStream:
    codec = next(name for name in _CODECS if name in av.codecs_available)
    stream = file.add_stream(codec, rate=rate, options=_OPTIONS[codec])
    if not isinstance(stream, VideoStream):
        raise TypeError(f"{codec} is no codec for video")
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    # More threads would take the machine away from those who wait, and change the bytes.
    context.thread_count = 1
    context.colorspace = context.color_primaries = context.color_trc = _BT601
    context.color_range = _NARROW
    return stream


def _frames(order: FilmOrder, count: int) -> Iterator[VideoFrame]:
    rng = Random(order.seed)  # noqa: S311 - the way of a camera, not a secret
    pictures = order.pictures[:_MOST_STILLS]
    scenes = max(1, len(pictures))
    for scene in range(scenes):
        photo = read_still(pictures[scene]) if pictures else None
        large = tuple(round(side * _RESERVE) for side in order.size)
        picture = painter.still(photo, order.words, (large[0], large[1]), rng)
        planes = _planes(picture)
        drift = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
        first, last = count * scene // scenes, count * (scene + 1) // scenes
        for number in range(first, last):
            way = (number - first) / max(1, last - first - 1)
            yield _frame(planes, order.size, way, drift)


def read_still(material: Material) -> Image.Image:
    """An input picture, or the first picture of an input video. Raises Unusable."""
    if material.kind == "image":
        return painter.read_picture(material.path)
    try:
        with av.open(str(material.path), options=READABLE) as file:
            for frame in file.decode(video=0):
                picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
                return picture
    except (av.error.FFmpegError, ValueError) as error:
        raise Unusable("an input video cannot be decoded") from error
    raise Unusable("an input video holds no picture")


def _planes(picture: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
    luminance, blue, red = picture.convert("YCbCr").split()
    half = (picture.width // 2, picture.height // 2)
    small = [plane.resize(half, Image.Resampling.BOX).point(_COLOUR) for plane in (blue, red)]
    return luminance.point(_LUMINANCE), small[0], small[1]


def _frame(
    planes: tuple[Image.Image, Image.Image, Image.Image],
    size: tuple[int, int],
    way: float,
    drift: tuple[float, float],
) -> VideoFrame:
    """The frame at a part of the way from the whole picture to the closest look."""
    eased = way * way * (3 - 2 * way)
    share = 1 / (1 + (_CLOSEST - 1) * eased)
    frame = VideoFrame(*size, "yuv420p")
    for number, plane in enumerate(planes):
        left = plane.width * (1 - share) * drift[0]
        top = plane.height * (1 - share) * drift[1]
        box = (left, top, left + plane.width * share, top + plane.height * share)
        part = frame.planes[number]
        cut = plane.resize((part.width, part.height), Image.Resampling.BILINEAR, box=box)
        part.update(_padded(cut, part.line_size))
    return frame


def _padded(plane: Image.Image, line: int) -> bytes:
    """The bytes of a plane, each line as long as FFmpeg lays it out."""
    if plane.width == line:
        return plane.tobytes()
    wide = Image.new("L", (line, plane.height))
    wide.paste(plane)
    return wide.tobytes()
