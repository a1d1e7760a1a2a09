"""Real media files, small and made on the spot: pictures by Pillow, videos and sounds by FFmpeg."""

import io
import random
import struct
import zlib
from fractions import Fraction
from functools import cache
from typing import Any

import av
import pillow_heif
from PIL import Image

_TICK = Fraction(1, 48000)


@cache
def picture(form: str, size: tuple[int, int] = (64, 48), orientation: int = 1) -> bytes:
    """A noisy picture, of which every byte counts."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, form, exif=exif.tobytes())
    return buffer.getvalue()


def animation(form: str, frames: int = 4) -> bytes:
    pictures = [Image.effect_noise((64, 48), 80).convert("RGB") for _ in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, form, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


@cache
def clip(
    form: str = "mp4",
    video: str | None = "libx264",
    audio: str | None = None,
    *,
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
) -> bytes:
    """Two seconds of noise, to be seen at 12 frames a second or to be heard."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as out:
        # All streams are there before the first packet, with which the header is written.
        pictures = _pictures(out, video, size, rotation) if video else None
        sound = out.add_stream(audio, rate=48000, layout="mono") if audio else None
        out.start_encoding()
        for number in range(24 if pictures else 0):
            frame = av.VideoFrame.from_image(Image.effect_noise(size, 80).convert("RGB"))
            frame.pts = number
            out.mux(pictures.encode(frame))
        for number in range(96 if sound else 0):
            heard = av.AudioFrame(format="s16", layout="mono", samples=1000)
            heard.planes[0].update(random.Random(number).randbytes(2000))
            heard.sample_rate, heard.pts, heard.time_base = 48000, number * 1000, _TICK
            out.mux(sound.encode(heard))
        for stream in filter(None, (pictures, sound)):
            out.mux(stream.encode())
    return buffer.getvalue()


def _pictures(out: Any, codec: str, size: tuple[int, int], rotation: int) -> Any:
    stream = out.add_stream(codec, rate=12)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


def bomb(form: str = "PNG", side: int = 40_000) -> bytes:
    """A few bytes that promise 1.6 thousand million pixels."""
    if form == "GIF":
        frame = b"\x2c" + bytes(4) + struct.pack("<HH", side, side) + b"\0\x02\x02\x4c\x01\0\x3b"
        return b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6) + frame

    def chunk(name: bytes, content: bytes) -> bytes:
        sum_of = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum_of

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(bytes(1000))),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def heic() -> bytes:
    """A photo as an iPhone takes it."""
    pillow_heif.register_heif_opener(thumbnails=False)
    return picture("HEIF")
