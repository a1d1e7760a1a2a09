"""Writes sound files, and reads the sound of what was submitted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

from comfyline.sandbox.inspection import READABLE
from comfyline.sandbox.music import RATE

_PIECE = 16 * RATE


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """A file format for sound; `extension` is also the name that FFmpeg has for it."""

    extension: str
    codec: str
    sample_format: str
    bit_rate: int | None = None


MP3 = SoundFormat("mp3", "libmp3lame", "s16p", 96_000)
_FORMATS = {
    "wav": SoundFormat("wav", "pcm_s16le", "s16"),
    "pcm": SoundFormat("wav", "pcm_s16le", "s16"),
    "flac": SoundFormat("flac", "flac", "s16"),
}


def sound_format(word: str) -> SoundFormat:
    """The format of a wish such as `wav` or `mp3_44100_128`; what is unknown becomes MP3."""
    return _FORMATS.get(word.lower().partition("_")[0], MP3)


def write_sound(samples: Iterator[bytes], form: SoundFormat, target: Path) -> Iterator[None]:
    """Writes a file piece by piece; between two pieces others may work."""
    with av.open(str(target), "w", format=form.extension, options={"fflags": "+bitexact"}) as file:
        track = SoundTrack(file, form)
        done = 0
        for chunk in samples:
            track.write(chunk)
            done += len(chunk) // 2
            if done >= _PIECE:
                done = 0
                yield
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
        self._resampler = AudioResampler(format=stream.format, layout="mono", rate=RATE)
        self.written = 0

    def write(self, samples: bytes) -> None:
        """Adds signed 16-bit mono samples."""
        if not samples:
            return
        frame = AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
        # The plane is longer than the samples where FFmpeg pads it.
        plane = frame.planes[0]
        plane.update(samples.ljust(plane.buffer_size, b"\0"))
        frame.sample_rate, frame.pts = RATE, self.written
        self.written += frame.samples
        for fitting in self._resampler.resample(frame):
            self._file.mux(self._stream.encode(fitting))

    def end(self) -> None:
        """Writes what the encoder still holds."""
        for rest in self._resampler.resample(None):
            self._file.mux(self._stream.encode(rest))
        self._file.mux(self._stream.encode(None))


def recording(path: Path, seconds: float) -> Iterator[bytes]:
    """The sound of a submitted file, in exactly so many seconds: cut off, or silent at its end."""
    left = round(seconds * RATE)
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path), options=READABLE) as file:
        for heard in file.decode(audio=0):
            for frame in resampler.resample(heard):
                samples = bytes(frame.planes[0])[: 2 * min(frame.samples, left)]
                left -= len(samples) // 2
                yield samples
            if not left:
                return
    while left > 0:
        yield bytes(2 * min(left, RATE))
        left -= RATE
