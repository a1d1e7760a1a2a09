"""Generate a chord, and write sound files and the sound tracks of videos."""

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer

RATE = 32_000
"""Samples a second; all sound in the sandbox is mono, of signed 16-bit samples."""

_LOUDNESS = 6_000
_MAJOR, _MINOR = (20, 25, 30), (20, 24, 30)
_SAD = re.compile(r"sad|dark|minor|melanchol|blues|night|horror|tense|悲|夜", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """A file format for sound; `extension` is also the name that FFmpeg has for it."""

    extension: str
    codec: str
    bit_rate: int | None = None


AAC = SoundFormat("m4a", "aac", 96_000)
MP3 = SoundFormat("mp3", "libmp3lame", 96_000)
_FORMATS = {
    "wav": SoundFormat("wav", "pcm_s16le"),
    "pcm": SoundFormat("wav", "pcm_s16le"),
    "flac": SoundFormat("flac", "flac"),
}


def sound_format(word: str) -> SoundFormat:
    """Read a wish such as `wav` or `mp3_44100_128`; what is unknown becomes MP3."""
    return _FORMATS.get(word.lower().partition("_")[0], MP3)


def write_sound(samples: Iterator[bytes], form: SoundFormat, target: Path) -> None:
    """Write a sound file."""
    with av.open(str(target), "w", format=form.extension, options={"fflags": "+bitexact"}) as file:
        track = SoundTrack(file, form)
        for chunk in samples:
            track.write(chunk)
        track.end()


class SoundTrack:
    """The one sound track of a file that is being written."""

    def __init__(self, file: OutputContainer, form: SoundFormat) -> None:
        # Of MP3's searches the fastest: nobody will compare it with the studio tape.
        options = {"compression_level": "9"} if form is MP3 else {}
        stream = file.add_stream(form.codec, rate=RATE, layout="mono", options=options)
        if not isinstance(stream, AudioStream):
            raise TypeError(f"{form.codec} is no codec for sound")
        if form.bit_rate is not None:
            stream.bit_rate = form.bit_rate
        self._file, self._stream = file, stream
        self.written = 0

    def write(self, samples: bytes) -> None:
        """Add signed 16-bit mono samples."""
        frame = AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
        # The plane is longer than the samples where FFmpeg pads it.
        plane = frame.planes[0]
        plane.update(samples.ljust(plane.buffer_size, b"\0"))
        frame.sample_rate, frame.pts = RATE, self.written
        self.written += frame.samples
        self._file.mux(self._stream.encode(frame))

    def end(self) -> None:
        """Write what the encoder still holds."""
        self._file.mux(self._stream.encode(None))


def chord(words: str, seed: bytes, seconds: float) -> Iterator[bytes]:
    """Yield samples of just this length: three tones that swell once a second."""
    root = 2 * Random(seed).randint(10, 20)  # noqa: S311 - a tone, not a secret
    # Whole numbers of Hz: one second follows another without a seam, and is computed once.
    tones = [root * step // 2 for step in (_MINOR if _SAD.search(words) else _MAJOR)]
    second = array("h")
    for sample in range(RATE):
        turn = 2 * math.pi * sample / RATE
        swell = _LOUDNESS * (1 - math.cos(turn)) / 2
        second.append(round(swell * sum(math.sin(tone * turn) for tone in tones) / 3))
    left = round(seconds * RATE)
    while left > 0:
        yield second[:left].tobytes()
        left -= RATE
