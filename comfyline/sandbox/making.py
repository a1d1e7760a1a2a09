"""Makes what one request asks for: fetches the inputs, looks at them, and has the files made.

Whatever takes the processor's time is done in the workers' threads, a piece at a time, so that
a long film does not keep the pictures of other requests waiting.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from comfyline.sandbox import image_generator, inputs, shapes, wishes
from comfyline.sandbox.catalogue import Entry
from comfyline.sandbox.dialect import media_values
from comfyline.sandbox.inspection import Material, inspect
from comfyline.sandbox.records import Request
from comfyline.sandbox.sound import chord, recording, sound_format, write_sound
from comfyline.sandbox.store import Store
from comfyline.sandbox.vault import Vault
from comfyline.sandbox.video_generator import FilmOrder, film

_USUAL_SECONDS = 5.0
_LONGEST_SECONDS = 600.0
_LETTERS_A_SECOND = 15
_SHORTEST_SPEECH = 2.0
_LOWEST_FILM = 240


@dataclass(frozen=True, slots=True)
class Made:
    """The names of the files of a request, and how many seconds they last (a picture: None)."""

    files: list[str]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Commission:
    """One request with its inputs at hand; `is_blank` spoils its pictures, on order.

    `pixels` is the longer edge of a picture of 1K; films are smaller or larger with it.
    """

    entry: Entry
    input: Mapping[str, Any]
    materials: tuple[Material, ...]
    is_blank: bool = False
    pixels: int = 1024

    def of_kind(self, *kinds: str) -> tuple[Material, ...]:
        """Return the inputs of these kinds, in their order."""
        return tuple(material for material in self.materials if material.kind in kinds)

    def seconds(self) -> float:
        """Return how long the result lasts: as asked, else as long as the sound or video given."""
        lengths = [m.measures.seconds for m in (*self.of_kind("audio"), *self.of_kind("video"))]
        given = next((length for length in lengths if length), None)
        spoken = None
        if self.entry.makes == "audio":
            spoken = max(_SHORTEST_SPEECH, len(wishes.words(self.input)) / _LETTERS_A_SECOND)
        wanted = wishes.seconds(self.input) or given or spoken or _USUAL_SECONDS
        return min(_LONGEST_SECONDS, wanted)

    def seed(self, index: int) -> bytes:
        """Return what all chance is drawn from: the same order gives the same bytes."""
        asked = json.dumps([wishes.words(self.input), wishes.asked(self.input, "seed"), index])
        digest = hashlib.sha256(asked.encode())
        for material in self.materials:
            with material.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.digest()


class Workshop:
    """Makes requests' files, in the threads of `workers`."""

    def __init__(self, store: Store, vault: Vault, workers: Executor, pixels: int) -> None:
        self._store, self._vault, self._workers, self._pixels = store, vault, workers, pixels

    async def make(
        self, request: Request, entry: Entry, http: httpx.AsyncClient, *, is_blank: bool = False
    ) -> Made:
        """Make and store all files of a request, its pictures blank if it is said so.

        Raises `inputs.Unusable`.
        """
        loop = asyncio.get_running_loop()
        names: list[str] = []
        with self._vault.workbench() as bench:
            materials = await self._materials(request, entry, http, bench)
            commission = Commission(entry, request.input, materials, is_blank, self._pixels)
            kinds = shapes.media_to_make(entry, request.input)
            for number, kind in enumerate(kinds):
                extension = _extension(kind, request.input)
                target = bench / f"made-{number}.{extension}"
                work = _begin(kind, commission, number, target)
                while await loop.run_in_executor(self._workers, _one_more_piece, work):
                    pass
                name = f"{number}.{extension}"
                await asyncio.to_thread(
                    self._vault.put, request.request_id, name, target, once=request.once
                )
                names.append(name)
        lasting = any(kind != "image" for kind in kinds)
        return Made(names, commission.seconds() if lasting else None)

    async def _materials(
        self, request: Request, entry: Entry, http: httpx.AsyncClient, bench: Path
    ) -> tuple[Material, ...]:
        loop = asyncio.get_running_loop()
        materials = []
        for number, media in enumerate(media_values(entry.input_schema, request.input)):
            target = bench / str(number)
            await inputs.fetch(http, media, target)
            await asyncio.to_thread(self._store.fetched, request, str(media.value))
            materials.append(await loop.run_in_executor(self._workers, inspect, target, media))
        return tuple(materials)


def _one_more_piece(work: Iterator[None]) -> bool:
    return next(work, "done") is None


def _extension(kind: str, given: Mapping[str, Any]) -> str:
    word = str(wishes.asked(given, "output_format") or "")
    match kind:
        case "video":
            return "mp4"
        case "audio":
            return sound_format(word).extension
        case _:
            return image_generator.EXTENSIONS.get(word, "png")


def _begin(kind: str, commission: Commission, index: int, target: Path) -> Iterator[None]:
    """Begin the work on one file. Nothing is done before the first piece is asked for."""
    match kind:
        case "video":
            yield from _film(commission, index, target)
        case "audio":
            word = str(wishes.asked(commission.input, "output_format") or "")
            words, seed = wishes.words(commission.input), commission.seed(index)
            samples = chord(words, seed, commission.seconds())
            yield from write_sound(samples, sound_format(word), target)
        case _:
            image_generator.paint(_paint_order(commission), index, target)


def _film(commission: Commission, index: int, target: Path) -> Iterator[None]:
    pictures = commission.of_kind("image") or commission.of_kind("video")
    natural = pictures[0].size if pictures else None
    seconds = commission.seconds()
    words, seed = wishes.words(commission.input), commission.seed(index)
    heard = next((m for m in commission.materials if m.has_sound), None)
    switch = wishes.sound_switch(commission.input)
    sound = None
    if heard and switch is not False:
        sound = recording(heard.path, seconds)
    elif switch:
        sound = chord(words, seed, seconds)
    width, height = wishes.film_size(commission.input, commission.entry.model_id, natural)
    scale = min(1.0, max(commission.pixels / 1024, _LOWEST_FILM / min(width, height)))
    size = (2 * round(width * scale / 2), 2 * round(height * scale / 2))
    yield from film(FilmOrder(words, pictures, size, seconds, seed, sound), target)


def _paint_order(commission: Commission) -> image_generator.PaintOrder:
    def asked(name: str, otherwise: str) -> str:
        return str(wishes.asked(commission.input, name) or otherwise)

    return image_generator.PaintOrder(
        prompt=wishes.words(commission.input),
        pictures=tuple(material.path for material in commission.of_kind("image")),
        aspect_ratio=asked("aspect_ratio", "auto"),
        resolution=asked("resolution", "1K"),
        output_format=asked("output_format", "png"),
        seed=json.dumps(wishes.asked(commission.input, "seed")),
        is_blank=commission.is_blank,
        pixels=commission.pixels,
    )
