"""The models that a run uses: their schema from disk, their price from RunComfy's catalogue."""

import asyncio
from pathlib import Path

from comfyline.errors import ComfylineError, InputInvalid, Problem
from comfyline.models.entry import ModelEntry
from comfyline.models.library import find_model
from comfyline.runcomfy.client import RuncomfyClient


class Catalogue:
    """Looks each model up once a process."""

    def __init__(self, directories: tuple[Path, ...], client: RuncomfyClient) -> None:
        self._directories = directories
        self._client = client
        self._entries: dict[str, asyncio.Task[ModelEntry]] = {}
        self._priced: dict[str, asyncio.Task[ModelEntry]] = {}

    async def entry(self, model_id: str) -> ModelEntry:
        """A model's schema: the local file, else RunComfy's own.

        Raises `InputInvalid` when neither knows the model: nothing is submitted unchecked.
        """
        if model_id not in self._entries:
            self._entries[model_id] = asyncio.create_task(self._find(model_id))
        return await asyncio.shield(self._entries[model_id])

    async def priced(self, model_id: str) -> ModelEntry:
        """The same with the catalogue's price of today; unknown when RunComfy does not say."""
        if model_id not in self._priced:
            self._priced[model_id] = asyncio.create_task(self._price(model_id))
        return await asyncio.shield(self._priced[model_id])

    async def _find(self, model_id: str) -> ModelEntry:
        local = await asyncio.to_thread(find_model, model_id, self._directories)
        return local or await self._fetch(model_id)

    async def _price(self, model_id: str) -> ModelEntry:
        entry = await self.entry(model_id)
        try:
            live = await self._fetch(model_id)
        except ComfylineError:
            return entry
        price = {"base_price_usd": live.base_price_usd, "price_unit": live.price_unit}
        return entry.model_copy(update=price)

    async def _fetch(self, model_id: str) -> ModelEntry:
        try:
            return ModelEntry.model_validate(await self._client.catalogue_entry(model_id))
        except ComfylineError as error:
            problem = Problem(
                model_id,
                f"there is no schema in configs/models/, and RunComfy gives none: {error.message}",
                "check the model id",
            )
            raise InputInvalid([problem]) from error
