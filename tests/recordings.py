"""Small recordings made by FFmpeg itself, and what can be seen in one when it is decoded."""

import io
import wave
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

RATE = 16_000


@dataclass(frozen=True)
class Decoded:
    """What came out of a file that was decoded to its end without a complaint."""

    container: str
    size: tuple[int, int] | None
    frames: int
    picture_seconds: float
    sound_seconds: float
    loudest: int


def wav(seconds: float, loudness: int = 9000) -> bytes:
    """A rattling sound."""
    half = (loudness).to_bytes(2, "little", signed=True) * 20
    other = (-loudness).to_bytes(2, "little", signed=True) * 20
    samples = ((half + other) * round(seconds * RATE / 40 + 1))[: 2 * round(seconds * RATE)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return buffer.getvalue()


def mp4(
    path: Path, *, seconds: float = 1.0, size: tuple[int, int] = (160, 96), sound: bool = False
) -> Path:
    """A video that goes from red to green, at 10 frames a second."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        track = file.add_stream("aac", rate=RATE, layout="mono") if sound else None
        total = round(seconds * 10)
        for number in range(total):
            shade = 255 * number // total
            image = Image.new("RGB", size, (255 - shade, shade, 40))
            frame = VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if isinstance(track, AudioStream):
            for number in range(round(seconds * RATE) // 1024):
                heard = AudioFrame(format="fltp", layout="mono", samples=1024)
                heard.planes[0].update(b"\0\0\0\x3e\0\0\0\xbe" * (heard.planes[0].buffer_size // 8))
                heard.sample_rate, heard.pts = RATE, number * 1024
                file.mux(track.encode(heard))
            file.mux(track.encode(None))
    return path


def decoded(content: bytes) -> Decoded:
    """Decodes every picture and every sample of a recording."""
    frames, samples, picture_seconds, loudest = 0, 0.0, 0.0, 0
    with av.open(io.BytesIO(content)) as file:
        videos = file.streams.video
        for packet in file.demux():
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    frames += 1
                elif isinstance(frame, AudioFrame):
                    samples += frame.samples / frame.sample_rate
                    loudest = max(loudest, *bytes(frame.planes[0])[:4096])
        if videos and videos[0].average_rate:
            picture_seconds = frames / float(videos[0].average_rate)
        size = (videos[0].width, videos[0].height) if videos else None
        return Decoded(file.format.name, size, frames, picture_seconds, samples, loudest)
