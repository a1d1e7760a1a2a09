"""The models that a run uses: their schema from disk, their price from RunComfy's catalogue."""

import asyncio
from pathlib import Path

from pydantic import ValidationError

from comfyline.errors import (
    ComfylineError,
    InputInvalid,
    Problem,
    Refused,
    TokenRejected,
    Unreachable,
)
from comfyline.models.entry import ModelEntry
from comfyline.models.library import find_model
from comfyline.once import Once
from comfyline.runcomfy.client import RuncomfyClient

_ERRORS_LAST = 60.0
"""Seconds until what RunComfy did not say is asked again."""


class Catalogue:
    """Looks each model up once a process."""

    def __init__(self, directories: tuple[Path, ...], client: RuncomfyClient) -> None:
        self._directories = directories
        self._client = client
        self._live: Once[ModelEntry] = Once(self._fetch, _ERRORS_LAST)
        self._entries: Once[ModelEntry] = Once(self._find, 0)
        self._priced: dict[str, ModelEntry] = {}

    async def entry(self, model_id: str) -> ModelEntry:
        """A model's schema: the local file, else RunComfy's own.

        Raises `InputInvalid` when neither knows the model: nothing is submitted unchecked. When
        there is no file and RunComfy cannot be asked, that is an `Unreachable` or `TokenRejected`.
        """
        return await self._entries.get(model_id)

    async def priced(self, model_id: str) -> ModelEntry:
        """The same with the catalogue's price of today; unknown when RunComfy does not say.

        Raises `TokenRejected`: nothing that follows would be accepted either.
        """
        if model_id in self._priced:
            return self._priced[model_id]
        entry = await self.entry(model_id)
        try:
            live = await self._live.get(model_id)
        except TokenRejected:
            raise
        except ComfylineError:
            # The file's price is that of the day on which it was written.
            return entry.model_copy(update={"base_price_usd": None, "price_unit": None})
        price = {"base_price_usd": live.base_price_usd, "price_unit": live.price_unit}
        return self._priced.setdefault(model_id, entry.model_copy(update=price))

    async def _find(self, model_id: str) -> ModelEntry:
        local = await asyncio.to_thread(find_model, model_id, self._directories)
        if local:
            return local
        live = await self._live.get(model_id)
        if not live.input_schema:
            raise _unknown(model_id, "RunComfy lists the model without its inputs")
        return live

    async def _fetch(self, model_id: str) -> ModelEntry:
        try:
            return ModelEntry.model_validate(await self._client.catalogue_entry(model_id))
        except Refused as error:
            raise _unknown(model_id, f"RunComfy gives none: {error.message}") from error
        except ValidationError as error:
            raise Unreachable(f"RunComfy's entry of {model_id} cannot be read") from error


def _unknown(model_id: str, reason: str) -> InputInvalid:
    message = f"there is no schema in configs/models/, and {reason}"
    return InputInvalid([Problem(model_id, message, "check the model id")])
