"""Generate videos, a slow zoom over the inputs' pictures, and sounds, a chord that swells."""

import math
from array import array
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from comfyline.sandbox.image_generator import compose, graded
from comfyline.sandbox.order import Order

# A film that is longer or larger than usual has fewer frames a second: it costs time as well.
_MOST_PIXELS = 200_000_000
_FEWEST_FPS, _MOST_FPS = 2, 10
_MOST_STILLS = 4
_CLOSEST = 0.82

_RATE = 32_000
_LOUDNESS = 6_000
_CODECS = {"mp3": "libmp3lame", "wav": "pcm_s16le", "flac": "flac"}


def generate_video(order: Order, index: int, target: Path) -> None:
    """Write the video of an order as MP4."""
    size, seconds, chance = order.size("video"), order.seconds(), order.chance(index)
    affordable = int(_MOST_PIXELS / (size[0] * size[1] * max(1.0, seconds)))
    rate = max(_FEWEST_FPS, min(_MOST_FPS, affordable))
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as file:
        film = file.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "24"})
        film.width, film.height = size
        film.pix_fmt = "yuv420p"
        # More threads would take the machine away from those who wait, and change the bytes.
        film.codec_context.thread_count = 1
        sound = file.add_stream("aac", rate=_RATE, layout="mono") if order.has_sound() else None
        frames = _frames(order, size, max(1, round(seconds * rate)), chance)
        for number, picture in enumerate(frames):
            frame: VideoFrame = VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV's has no types
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(film.encode(frame))
        file.mux(film.encode(None))
        if sound:
            _write_chord(file, sound, seconds, chance)


def generate_sound(order: Order, index: int, target: Path) -> None:
    """Write the sound of an order, in the format of the target's name."""
    form = target.suffix[1:]
    with av.open(str(target), "w", format=form, options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream(_CODECS[form], rate=_RATE, layout="mono")
        if isinstance(stream, AudioStream):
            _write_chord(file, stream, order.seconds(), order.chance(index))


def _frames(
    order: Order, size: tuple[int, int], count: int, chance: Random
) -> Iterator[Image.Image]:
    """Yield the frames: each still in turn, from the whole picture to the closest look."""
    photos = order.pictures[:_MOST_STILLS] or (None,)
    for scene, photo in enumerate(photos):
        drawn = ImageOps.fit(photo, size) if photo else compose(order.words, (), size, chance)
        picture = graded(drawn, order)
        drift = (chance.uniform(0.3, 0.7), chance.uniform(0.3, 0.7))
        first, last = count * scene // len(photos), count * (scene + 1) // len(photos)
        for number in range(last - first):
            share = 1 - (1 - _CLOSEST) * number / (last - first)
            left, top = ((1 - share) * edge * d for edge, d in zip(size, drift, strict=True))
            box = (left, top, left + size[0] * share, top + size[1] * share)
            yield picture.resize(size, Image.Resampling.BILINEAR, box=box)


def _write_chord(
    file: OutputContainer, stream: AudioStream, seconds: float, chance: Random
) -> None:
    """Write a major chord of just this length, of signed 16-bit samples."""
    # Whole numbers of Hz: one second follows another without a seam, and is computed once.
    root = 2 * chance.randint(50, 100)
    second = array("h")
    for sample in range(_RATE):
        turn = 2 * math.pi * sample / _RATE
        tones = sum(math.sin(tone * turn) for tone in (2 * root, 5 * root // 2, 3 * root))
        second.append(round(_LOUDNESS * (1 - math.cos(turn)) / 2 * tones / 3))
    written, whole = 0, round(seconds * _RATE)
    while written < whole:
        samples = second[: whole - written]
        frame = AudioFrame(format="s16", layout="mono", samples=len(samples))
        # The plane is longer than the samples where FFmpeg pads it.
        frame.planes[0].update(samples.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts = _RATE, written
        written += len(samples)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))
