"""One request with its inputs at hand, and what it asks of the generators."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from comfyline.sandbox import params
from comfyline.sandbox.catalogue import CatalogueEntry
from comfyline.sandbox.inputs import InputFile

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
        """What was written for the model to understand."""
        return params.words(self.input)

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures among the inputs, and the first one of each video."""
        return tuple(file.picture for file in self.files if file.picture)

    def extension(self, kind: str) -> str:
        """Return the extension of a file of a kind: `wav` also for `wav_44100`."""
        word = str(params.asked(self.input, "output_format")).lower().partition("_")[0]
        known = _EXTENSIONS[kind]
        return known.get(word) or next(iter(known.values()))

    def seconds(self) -> float:
        """Return how long the result lasts: as asked, else as long as the sound or video given."""
        given = (
            file.measures.seconds
            for kind in ("audio", "video")
            for file in self.files
            if file.kind == kind and file.measures.seconds
        )
        return min(_LONGEST_SECONDS, params.seconds(self.input) or next(given, _USUAL_SECONDS))

    def size(self, kind: str) -> tuple[int, int]:
        """Return the width and height of an image or a video; those of a video are even."""
        natural = next((file.size for file in self.files if file.size), None)
        width, height = params.frame_size(self.input, self.entry.model_id, kind, natural)
        scale = self.pixels / 1024
        if kind == "image":
            return max(1, round(width * scale)), max(1, round(height * scale))
        scale = min(1.0, max(scale, _LOWEST_FILM / min(width, height)))
        return 2 * round(width * scale / 2), 2 * round(height * scale / 2)

    def has_sound(self) -> bool:
        """Tell whether a video gets a sound: by the model's switch, else when an input has one."""
        switch = params.sound_switch(self.input)
        return any(file.has_sound for file in self.files) if switch is None else switch

    def chance(self, index: int) -> Random:
        """Return what all chance is drawn from: the same order gives the same bytes."""
        asked = json.dumps([self.words, params.asked(self.input, "seed"), index])
        digest = hashlib.sha256(asked.encode())
        for given in self.files:
            with given.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return Random(digest.digest())  # noqa: S311 - for a picture, not a secret
