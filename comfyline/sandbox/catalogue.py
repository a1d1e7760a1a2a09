"""The models that the sandbox offers, read from catalogue entries on disk."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from comfyline.sandbox.params import how_many, seconds

log = logging.getLogger(__name__)

# An entry that says nothing of its price gets one of these: its own, or that of its unit. In a
# file, since the code knows no model by its name.
_PRICES = json.loads(files("comfyline.sandbox").joinpath("prices.json").read_text("utf-8"))
_SOUNDS = {"audio", "music", "speech", "song", "sound", "voice"}


class CatalogueEntry(BaseModel):
    """One model as the catalogue shows it.

    `base_price_usd` is what it says of its price; None and a negative number say that it is not
    told. `rate_usd` is what is charged all the same, and is not shown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_id: str
    kind: str = "model"
    categories: tuple[str, ...] = ()
    input_schema: dict[str, Any] = Field(default_factory=dict)
    output_schema: dict[str, Any] | None = None
    price_unit: str | None = "output"
    base_price_usd: float | None = None
    pricing_note: str | None = None
    rate_usd: float = Field(default=0.0, exclude=True)

    @property
    def makes(self) -> Literal["image", "video", "audio"]:
        """What comes out of this model, as its categories say."""
        for category in self.categories:
            made = category.rpartition("-to-")[2]
            if "video" in made:
                return "video"
            if made in _SOUNDS:
                return "audio"
        return "image"

    def charge(self, inputs: Mapping[str, Any], made_seconds: float | None = None) -> float:
        """Return the price of one request in USD. `inputs` have their defaults filled in.

        `made_seconds` is the length of what was made, for a length that the input left open.
        """
        number: float = how_many(inputs)
        if self.price_unit == "second":
            number = seconds(inputs) or made_seconds or 1.0
        return round(self.rate_usd * number, 6)

    def shown(self, *, with_schema: bool) -> dict[str, Any]:
        """Return the entry as an answer shows it."""
        hidden = set() if with_schema else {"input_schema", "output_schema"}
        told = self.model_dump(mode="json", exclude=hidden, exclude_none=True)
        return {**told, "base_price_usd": self.base_price_usd}


class ModelCatalogue:
    """All entries under the given directories, by model id."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(directories)
        self._entries: dict[str, CatalogueEntry] = {}
        self._read()

    def _read(self) -> None:
        found: dict[str, CatalogueEntry] = {}
        for directory in self._directories:
            for path in sorted(directory.rglob("*.json")):
                try:
                    found |= {entry.model_id: entry for entry in _entries_in(directory, path)}
                except (OSError, ValueError, TypeError, KeyError) as error:
                    log.warning("%s is no catalogue entry: %s", path, type(error).__name__)
        self._entries = dict(sorted(found.items()))

    def find(self, model_id: str) -> CatalogueEntry | None:
        """Find the entry of a model. A model that is unknown is looked for on disk once more."""
        if model_id not in self._entries:
            self._read()
        return self._entries.get(model_id)

    def search(
        self, *, text: str | None = None, category: str | None = None, kind: str | None = None
    ) -> list[CatalogueEntry]:
        """Find every entry that fits, in the order of the model ids."""
        wanted = (text or "").lower()
        return [
            entry
            for entry in self._entries.values()
            if wanted in entry.model_id.lower()
            and (category is None or category in entry.categories)
            and (kind is None or kind == entry.kind)
        ]


def _entries_in(directory: Path, path: Path) -> list[CatalogueEntry]:
    """Return the entry of a file, or all of an answer's: `{"models": [entry, …]}`."""
    stored = json.loads(path.read_text("utf-8"))
    if not isinstance(stored, dict):
        raise TypeError("a catalogue entry is an object")
    if isinstance(listed := stored.get("models"), list):
        return [_entry(one) for one in listed]
    own_id = path.relative_to(directory).with_suffix("").as_posix()
    return [_entry({"model_id": own_id, **stored})]


def _entry(stored: dict[str, Any]) -> CatalogueEntry:
    unit = _PRICES["default"].get(stored.get("price_unit", "output"), 0.0)
    usual = _PRICES["models"].get(stored["model_id"], unit)
    price = stored.get("base_price_usd", usual)
    known = isinstance(price, int | float) and math.isfinite(price) and price >= 0
    return CatalogueEntry.model_validate(
        {**stored, "base_price_usd": price, "rate_usd": price if known else usual}
    )
