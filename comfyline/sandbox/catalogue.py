"""The models that the sandbox offers, read from catalogue entries on disk, with its own prices."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

log = logging.getLogger(__name__)


class Entry(BaseModel):
    """One model as the catalogue shows it; a file holds all of it but the price."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_id: str
    kind: str = "model"
    categories: tuple[str, ...] = ()
    input_schema: dict[str, Any] = Field(default_factory=dict)
    output_schema: dict[str, Any] | None = None
    price_unit: Literal["output", "second"] = "output"
    base_price_usd: float = 0.0
    pricing_note: str | None = None

    @property
    def makes(self) -> Literal["image", "video", "audio"]:
        """What comes out of this model, as its categories say."""
        for category in self.categories:
            if category.endswith("-to-video"):
                return "video"
            if category.endswith(("-to-audio", "-to-music", "-to-speech")):
                return "audio"
        return "image"

    def charge(self, inputs: Mapping[str, Any]) -> float:
        """The price of one request in USD. `inputs` have their defaults filled in."""
        if self.price_unit == "output":
            many = inputs.get("num_images", 1)
        else:
            many = inputs.get("duration", 1)
        number = float(many) if isinstance(many, int | float) and math.isfinite(many) else 1.0
        return round(self.base_price_usd * number, 6)

    def shown(self, *, with_schema: bool) -> dict[str, Any]:
        """The entry as an answer shows it."""
        hidden = set() if with_schema else {"input_schema", "output_schema"}
        return self.model_dump(mode="json", exclude=hidden, exclude_none=True)


class Catalogue:
    """All entries under the given directories, by model id."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self._prices = json.loads(
            files("comfyline.sandbox").joinpath("prices.json").read_text("utf-8")
        )
        self._entries: dict[str, Entry] = {}
        self._read()

    def _read(self) -> None:
        entries: dict[str, Entry] = {}
        for directory in self._directories:
            for path in sorted(directory.rglob("*.json")):
                try:
                    entry = self._entry(directory, path)
                except (OSError, ValueError, TypeError) as error:
                    log.warning("%s is no catalogue entry: %s", path, type(error).__name__)
                    continue
                entries[entry.model_id] = entry
        self._entries = dict(sorted(entries.items()))

    def _entry(self, directory: Path, path: Path) -> Entry:
        stored = json.loads(path.read_text("utf-8"))
        if not isinstance(stored, dict):
            raise TypeError("a catalogue entry is an object")
        stored.setdefault("model_id", path.relative_to(directory).with_suffix("").as_posix())
        unit = stored.get("price_unit", "output")
        price = self._prices["models"].get(stored["model_id"])
        stored["base_price_usd"] = price or self._prices["default"].get(unit, 0.0)
        return Entry.model_validate(stored)

    def find(self, model_id: str) -> Entry | None:
        """The entry of a model. A model that is unknown is looked for on disk once more."""
        if model_id not in self._entries:
            self._read()
        return self._entries.get(model_id)

    def search(
        self, *, text: str | None = None, category: str | None = None, kind: str | None = None
    ) -> list[Entry]:
        """Every entry that fits, in the order of the model ids."""
        wanted = (text or "").lower()
        return [
            entry
            for entry in self._entries.values()
            if wanted in entry.model_id.lower()
            and (category is None or category in entry.categories)
            and (kind is None or kind == entry.kind)
        ]
