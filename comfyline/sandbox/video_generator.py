"""Generate a real video: a slow zoom over the inputs' pictures, or over the prompt's backdrop."""

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

from comfyline.sandbox import image_generator
from comfyline.sandbox.inputs import READABLE, InputFile
from comfyline.sandbox.sound import AAC, RATE, SoundTrack, chord
from comfyline.sandbox.store import Unfulfillable

_CODECS = ("libx264", "libvpx-vp9")
_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "24"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"},
}

# What one film may cost: a film that is longer or larger than usual has fewer frames a second.
_MOST_PIXELS = 200_000_000
_FEWEST_FPS, _MOST_FPS = 2, 10
_MOST_STILLS = 4
_CLOSEST = 1.22
_RESERVE = 1.1


@dataclass(frozen=True, slots=True)
class VideoOrder:
    """What is to be made; `size` in even pixels."""

    words: str
    pictures: tuple[InputFile, ...]
    size: tuple[int, int]
    seconds: float
    seed: bytes
    with_sound: bool = False


def frames_per_second(size: tuple[int, int], seconds: float) -> int:
    """Compute how many frames a second a film of this size and length can afford."""
    affordable = _MOST_PIXELS / (size[0] * size[1] * max(1.0, seconds))
    return max(_FEWEST_FPS, min(_MOST_FPS, math.floor(affordable)))


def generate_video(order: VideoOrder, target: Path) -> None:
    """Write the video of an order. Raises `Unfulfillable` for a broken input."""
    rate = frames_per_second(order.size, order.seconds)
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as file:
        stream = _video_stream(file, order.size, rate)
        sound = chord(order.words, order.seed, order.seconds) if order.with_sound else iter(())
        track = SoundTrack(file, AAC) if order.with_sound else None
        for number, frame in enumerate(_frames(order, max(1, round(order.seconds * rate)))):
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
            # Beside the pictures, so that the file need not hold one track back for the other.
            while track and track.written <= number / rate * RATE and (heard := next(sound, b"")):
                track.write(heard)
        file.mux(stream.encode(None))
        if track:
            track.end()


def _video_stream(file: OutputContainer, size: tuple[int, int], rate: int) -> VideoStream:
    codec = next(name for name in _CODECS if name in av.codecs_available)
    stream = file.add_stream(codec, rate=rate, options=_OPTIONS[codec])
    if not isinstance(stream, VideoStream):
        raise TypeError(f"{codec} is no codec for video")
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # More threads would take the machine away from those who wait, and change the bytes.
    stream.codec_context.thread_count = 1
    return stream


def _frames(order: VideoOrder, count: int) -> Iterator[VideoFrame]:
    rng = Random(order.seed)  # noqa: S311 - the way of a camera, not a secret
    pictures = order.pictures[:_MOST_STILLS]
    scenes = max(1, len(pictures))
    for scene in range(scenes):
        photo = _read_still(pictures[scene]) if pictures else None
        large = (round(order.size[0] * _RESERVE), round(order.size[1] * _RESERVE))
        picture = image_generator.still(photo, order.words, large, rng)
        drift = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
        first, last = count * scene // scenes, count * (scene + 1) // scenes
        for number in range(first, last):
            yield _zoomed(picture, order.size, (number - first) / max(1, last - first - 1), drift)


def _zoomed(
    picture: Image.Image, size: tuple[int, int], way: float, drift: tuple[float, float]
) -> VideoFrame:
    """Cut the frame out at a part of the way from the whole picture to the closest look."""
    share = 1 / (1 + (_CLOSEST - 1) * way * way * (3 - 2 * way))
    left, top = picture.width * (1 - share) * drift[0], picture.height * (1 - share) * drift[1]
    box = (left, top, left + picture.width * share, top + picture.height * share)
    cut = picture.resize(size, Image.Resampling.BILINEAR, box=box)
    frame: VideoFrame = VideoFrame.from_image(cut)  # type: ignore[no-untyped-call]
    return frame


def _read_still(given: InputFile) -> Image.Image:
    if given.kind == "image":
        return image_generator.read_picture(given.path)
    try:
        with av.open(str(given.path), options=READABLE) as file:
            for frame in file.decode(video=0):
                picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
                return picture
    except (av.error.FFmpegError, ValueError) as error:
        raise Unfulfillable("an input video cannot be decoded") from error
    raise Unfulfillable("an input video holds no picture")
