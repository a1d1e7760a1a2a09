"""Make one file of a request: a picture, a video or a sound, from its inputs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyline.sandbox import params
from comfyline.sandbox.catalogue import CatalogueEntry
from comfyline.sandbox.image_generator import EXTENSIONS, ImageOrder, generate_image
from comfyline.sandbox.inputs import InputFile
from comfyline.sandbox.sound import chord, sound_format, write_sound
from comfyline.sandbox.video_generator import VideoOrder, generate_video

_USUAL_SECONDS = 5.0
_LONGEST_SECONDS = 600.0
_LETTERS_A_SECOND = 15
_SHORTEST_SPEECH = 2.0
_LOWEST_FILM = 240


@dataclass(frozen=True, slots=True)
class Order:
    """One request with its inputs at hand; `is_blank` spoils its pictures, on order.

    `pixels` is the longer edge of a picture of 1K; films are smaller or larger with it.
    """

    entry: CatalogueEntry
    input: Mapping[str, Any]
    files: tuple[InputFile, ...]
    is_blank: bool
    pixels: int

    def of_kind(self, kind: str) -> tuple[InputFile, ...]:
        """Return the inputs of a kind, in their order."""
        return tuple(file for file in self.files if file.kind == kind)

    def asked(self, name: str, otherwise: str = "") -> str:
        """Return what the input says of a setting."""
        return str(params.asked(self.input, name) or otherwise)

    def extension(self, kind: str) -> str:
        """Return the extension of a file that is made."""
        word = self.asked("output_format")
        if kind == "audio":
            return sound_format(word).extension
        return "mp4" if kind == "video" else EXTENSIONS.get(word, "png")

    def seconds(self) -> float:
        """Return how long the result lasts: as asked, else as long as the sound or video given."""
        lengths = [
            file.measures.seconds for file in (*self.of_kind("audio"), *self.of_kind("video"))
        ]
        given = next((length for length in lengths if length), None)
        spoken = None
        if self.entry.makes == "audio":
            spoken = max(_SHORTEST_SPEECH, len(params.words(self.input)) / _LETTERS_A_SECOND)
        wanted = params.seconds(self.input) or given or spoken or _USUAL_SECONDS
        return min(_LONGEST_SECONDS, wanted)

    def seed(self, index: int) -> bytes:
        """Return what all chance is drawn from: the same order gives the same bytes."""
        asked = json.dumps([params.words(self.input), params.asked(self.input, "seed"), index])
        digest = hashlib.sha256(asked.encode())
        for given in self.files:
            with given.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.digest()


def generate(kind: str, order: Order, index: int, target: Path) -> None:
    """Make one file of an order. Blocks; raises `Unusable` for an input that cannot be decoded."""
    words, seed = params.words(order.input), order.seed(index)
    match kind:
        case "video":
            _generate_video(order, words, seed, target)
        case "audio":
            form = sound_format(order.asked("output_format"))
            write_sound(chord(words, seed, order.seconds()), form, target)
        case _:
            image = ImageOrder(
                prompt=words,
                pictures=tuple(file.path for file in order.of_kind("image")),
                aspect_ratio=order.asked("aspect_ratio", "auto"),
                resolution=order.asked("resolution", "1K"),
                output_format=order.asked("output_format", "png"),
                seed=seed,
                is_blank=order.is_blank,
                pixels=order.pixels,
            )
            generate_image(image, target)


def _generate_video(order: Order, words: str, seed: bytes, target: Path) -> None:
    pictures = order.of_kind("image") or order.of_kind("video")
    natural = pictures[0].size if pictures else None
    width, height = params.video_size(order.input, order.entry.model_id, natural)
    scale = min(1.0, max(order.pixels / 1024, _LOWEST_FILM / min(width, height)))
    size = (2 * round(width * scale / 2), 2 * round(height * scale / 2))
    switch = params.sound_switch(order.input)
    with_sound = any(file.has_sound for file in order.files) if switch is None else switch
    generate_video(VideoOrder(words, pictures, size, order.seconds(), seed, with_sound), target)
