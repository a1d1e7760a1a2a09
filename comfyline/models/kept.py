"""Models that RunComfy described before, kept for when it cannot be asked.

A cache: whatever cannot be read is not there, and is written anew.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyline.errors import InputInvalid
from comfyline.models.entry import ModelEntry
from comfyline.models.library import model_path, read_models, store_model

FRESH_SECONDS = 7 * 24 * 60 * 60.0
"""For how long a kept model is taken as it is; after that RunComfy is asked whether it changed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept model; `is_fresh` is whether it is young enough not to be asked for again."""

    entry: ModelEntry
    is_fresh: bool


class KeptModels:
    """One folder with a file a model. Blocking: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, model_id: str) -> Kept | None:
        """The kept model; None when there is none. Raises `InputInvalid` for what is no id."""
        path = model_path(self._directory, model_id)
        with suppress(InputInvalid, OSError):
            for entry in read_models(path) if path.is_file() else ():
                # A clock that was set back makes a file from the future, which is of no known age.
                age = time.time() - path.stat().st_mtime
                if entry.model_id == model_id and entry.input_schema:
                    return Kept(entry, is_fresh=0 <= age < FRESH_SECONDS)
        return None

    def keep(self, model_id: str, published: Mapping[str, Any]) -> None:
        """Keeps an entry as it was published; a full disk keeps nothing, and stops nothing."""
        with suppress(OSError):
            store_model(self._directory, model_id, published)

    def list(self) -> list[ModelEntry]:
        """Every kept model, ordered by id."""
        paths = sorted(self._directory.rglob("*.json")) if self._directory.is_dir() else []
        ids = (path.relative_to(self._directory).as_posix()[: -len(".json")] for path in paths)
        found = []
        for model_id in ids:
            with suppress(InputInvalid):
                kept = self.find(model_id)
                found += [kept.entry] if kept else []
        return found
