"""One request with its inputs at hand, and what it asks of the generators."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from comfyline.sandbox import params
from comfyline.sandbox.catalogue import CatalogueEntry
from comfyline.sandbox.inputs import InputFile

_WORDS = ("prompt", "text", "tags", "lyrics", "script", "style")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*[:/]\s*(\d+(?:\.\d+)?)")
_PIXELS = re.compile(r"(\d{2,5})\s*[x*×]\s*(\d{2,5})", re.IGNORECASE)
_LINES = re.compile(r"(\d{3,4})p", re.IGNORECASE)
_THOUSANDS = re.compile(r"(\d(?:\.\d)?)k", re.IGNORECASE)
_WIDEST = 8.0
_USUAL_SECONDS, _LONGEST_SECONDS = 5.0, 600.0
_LOWEST_FILM = 240
_EXTENSIONS = {
    "image": {"png": "png", "jpeg": "jpg", "webp": "webp"},
    "video": {"mp4": "mp4"},
    "audio": {"mp3": "mp3", "wav": "wav", "pcm": "wav", "flac": "flac"},
}
"""Of each kind the formats that an input can ask for; the first is taken for all others."""


@dataclass(frozen=True, slots=True)
class Order:
    """One request. `is_blank` spoils its pictures, on order of a test.

    `pixels` is the longer edge of a picture of 1K; films are smaller or larger with it.
    """

    entry: CatalogueEntry
    input: Mapping[str, Any]
    files: tuple[InputFile, ...]
    is_blank: bool
    pixels: int

    @property
    def words(self) -> str:
        """Everything that was written for the model to understand, in one line."""
        found = (self.asked(name) for name in _WORDS)
        return ", ".join(text for text in found if isinstance(text, str) and text.strip())

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures among the inputs, and the first one of each video."""
        return tuple(file.picture for file in self.files if file.picture)

    def asked(self, name: str) -> Any:
        """Return the value of a field of the input; None when it is nowhere."""
        return params.asked(self.input, name)

    def extension(self, kind: str) -> str:
        """Return the extension of a file of a kind: `wav` also for `wav_44100`."""
        word = str(self.asked("output_format")).lower().partition("_")[0]
        known = _EXTENSIONS[kind]
        return known.get(word) or next(iter(known.values()))

    def seconds(self) -> float:
        """Return how long the result lasts: as asked, else as long as the sound or video given."""
        given = (
            file.seconds
            for kind in ("audio", "video")
            for file in self.files
            if file.kind == kind and file.seconds
        )
        return min(_LONGEST_SECONDS, params.seconds(self.input) or next(given, _USUAL_SECONDS))

    def size(self, kind: str) -> tuple[int, int]:
        """Return the width and height of an image or a video; those of a video are even."""
        width, height = self._asked_size(kind)
        scale = self.pixels / 1024
        if kind == "image":
            return max(1, round(width * scale)), max(1, round(height * scale))
        scale = min(1.0, max(scale, _LOWEST_FILM / min(width, height)))
        return 2 * round(width * scale / 2), 2 * round(height * scale / 2)

    def _asked_size(self, kind: str) -> tuple[float, float]:
        """Return the size that the input asks for, where a picture of 1K has 1024 pixels.

        The ratio is the one asked for, else that of the first input, else 1:1 of an image and 16:9
        of a video. Where the input says no resolution, one in the model's name counts, as in
        `…/1080p`: `p` counts the shorter edge, and `K` the longer one by 1024.
        """
        size, resolution, ratio = (
            str(self.asked(name) or "") for name in ("size", "resolution", "aspect_ratio")
        )
        exact = (found for text in (size, resolution, ratio) if (found := _PIXELS.fullmatch(text)))
        if found := next(exact, None):
            return _bounded(int(found[1])), _bounded(int(found[2]))
        usual = (1, 1) if kind == "image" else (16, 9)
        width, height = next((file.size for file in self.files if file.size), usual)
        shape = width / height
        if (asked := _RATIO.fullmatch(ratio)) and float(asked[1]) and float(asked[2]):
            shape = float(asked[1]) / float(asked[2])
        shape = min(_WIDEST, max(1 / _WIDEST, shape))
        stretch = max(shape, 1 / shape)
        long = 1024.0 if kind == "image" else 720 * stretch
        for text in (self.entry.model_id.rpartition("/")[2], resolution):
            if lines := _LINES.fullmatch(text):
                long = int(lines[1]) * stretch
            elif thousands := _THOUSANDS.fullmatch(text):
                long = float(thousands[1]) * 1024
        long = _bounded(long)
        return (long, long / stretch) if shape >= 1 else (long / stretch, long)

    def has_sound(self) -> bool:
        """Tell whether a video gets a sound: by the model's switch, else when an input has one."""
        switches = [
            value
            for name, value in self.input.items()
            if isinstance(value, bool) and ("audio" in name or "sound" in name)
        ]
        return any(switches) if switches else any(file.has_sound for file in self.files)

    def chance(self, index: int) -> Random:
        """Return what all chance is drawn from: the same order gives the same bytes."""
        asked = json.dumps([self.words, self.asked("seed"), index])
        digest = hashlib.sha256(asked.encode())
        for given in self.files:
            with given.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return Random(digest.digest())  # noqa: S311 - for a picture, not a secret


def _bounded(pixels: float) -> float:
    return max(64, min(4096, pixels))
