"""The models that a run uses: their schema from disk, their price from RunComfy's catalogue."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from comfyline.errors import (
    BrokenAnswer,
    ComfylineError,
    InputInvalid,
    Problem,
    Redirected,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
    did_you_mean,
)
from comfyline.models.entry import (
    ModelEntry,
    UncheckedModel,
    check_model_id,
    find_model,
    list_models,
    model_path,
    read_models,
    store_model,
)

if TYPE_CHECKING:
    # `check` asks nobody, and does not load the client.
    from comfyline.runcomfy.client import RuncomfyClient

CACHED_MODELS = "models"
"""The folder under the home in which the schemas that RunComfy gave are kept."""
FRESH_SECONDS = 7 * 24 * 60 * 60.0
"""For how long a kept model is taken as it is; after that RunComfy is asked whether it changed."""

ERRORS_LAST = 60.0
"""Seconds until what RunComfy did not say is asked again."""


class ModelCache:
    """One folder with a file a model. Blocking: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, model_id: str, *, fresh: bool = False) -> ModelEntry | None:
        """Find a cached model, with `fresh` only one that is young enough; None if there is none.

        Raises `InputInvalid` for what is no id.
        """
        path = model_path(self._directory, model_id)
        with suppress(OSError):
            # A clock that was set back makes a file from the future, which is of no known age.
            if not fresh or 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS:
                return next((one for one in self._read(path) if one.model_id == model_id), None)
        return None

    def keep(self, model_id: str, published: Mapping[str, Any]) -> None:
        """Keep an entry as it was published; a full disk keeps nothing, and stops nothing."""
        with suppress(OSError):
            store_model(self._directory, model_id, published)

    def list(self) -> list[ModelEntry]:
        """List every cached model."""
        paths = sorted(self._directory.rglob("*.json"))
        return [entry for path in paths for entry in self._read(path)]

    def _read(self, path: Path) -> Sequence[ModelEntry]:
        with suppress(InputInvalid):
            return [entry for entry in read_models(path) if entry.input_schema]
        return ()


T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Asks once, however many wait; remembers an answer for good, an error for `patience` seconds.

    Without that patience a thousand jobs would each wait anew for a server that is away.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[T]],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._clock = clock
        self._asked: dict[str, asyncio.Task[T]] = {}
        self._failed_at: dict[str, float] = {}

    async def get(self, name: str) -> T:
        """Return the answer for a name, or the error of who asked last."""
        is_over = self._clock() - self._failed_at.get(name, math.inf) >= self._patience
        if name not in self._asked or is_over:
            self._failed_at.pop(name, None)
            self._asked[name] = asyncio.create_task(self._ask_once(name))
        # Shielded: who is cancelled must not cancel what others wait for as well.
        return await asyncio.shield(self._asked[name])

    async def _ask_once(self, name: str) -> T:
        try:
            return await self._ask(name)
        except BaseException:
            self._failed_at[name] = self._clock()
            raise


@dataclass(frozen=True, slots=True)
class Published:
    """A catalogue entry as RunComfy answered it, and as it was read."""

    answer: Mapping[str, Any]
    entry: ModelEntry


class Catalogue:
    """Look each model up once a process.

    `directories` hold the project's own schemas and win; what only RunComfy knows is kept in
    `kept`, unless with `reading`, which writes nothing. Without a `client` RunComfy is not asked.
    With `unchecked` a model whose schema is nowhere to be had is an `UncheckedModel` instead of an
    error.
    """

    def __init__(
        self,
        directories: tuple[Path, ...],
        client: "RuncomfyClient | None",
        kept: ModelCache,
        *,
        reading: bool = False,
        unchecked: bool = False,
    ) -> None:
        self._directories = directories
        self._client = client
        self._kept = kept
        self._reading = reading
        self._unchecked = unchecked
        self._live: SingleFlight[Published] = SingleFlight(self._fetch, ERRORS_LAST)
        self._entries: SingleFlight[ModelEntry] = SingleFlight(self._find, 0)
        self._priced: dict[str, ModelEntry] = {}

    async def entry(self, model_id: str) -> ModelEntry:
        """Find a model's schema: the local file, else what was kept of RunComfy's, else its own.

        Raises `InputInvalid` when nobody knows the model: nothing is submitted unchecked. When
        there is no file and RunComfy cannot be asked, that is an `Unreachable`, a `TryLater` or a
        `TokenRejected`.
        """
        return await self._entries.get(model_id)

    async def priced(self, model_id: str) -> ModelEntry:
        """Find a model's schema with the price of today; unknown when RunComfy does not say.

        Raises `TokenRejected`: nothing that follows would be accepted either. And what the client
        raises, where something is to be made and RunComfy is away for too long.
        """
        if model_id in self._priced:
            return self._priced[model_id]
        entry = await self.entry(model_id)
        if isinstance(entry, UncheckedModel):
            # How many outputs it makes is not known, so neither is what they would cost.
            return entry
        try:
            live = (await self._live.get(model_id)).entry
        except TokenRejected:
            raise
        except ComfylineError:
            if not self._reading and (spent := self._runcomfy.retry_budget.spent):
                # Nothing that follows would be answered either: that is the reason, and no price.
                raise spent from None
            # The file's price is that of the day on which it was written.
            return entry.without_price()
        return self._priced.setdefault(model_id, entry.priced_like(live))

    async def published(self, model_id: str) -> Mapping[str, Any]:
        """Read RunComfy's own entry of a model; the errors are those of `entry`."""
        published = await self._live.get(check_model_id(model_id))
        if not published.entry.input_schema:
            raise _without_inputs(model_id)
        return published.answer

    async def search(self, text: str | None, category: str | None) -> list[ModelEntry]:
        """Find every model of RunComfy's catalogue that fits, all pages of it, without the inputs.

        Raises `Unreachable`, `TryLater`, `TokenRejected` or `Refused`.
        """
        found = []
        for answer in await self._runcomfy.models(search=text, category=category):
            # What has no id cannot be asked for, so there is nothing to say of it.
            with suppress(ValidationError):
                found.append(ModelEntry.model_validate(answer))
        return found

    @property
    def _runcomfy(self) -> "RuncomfyClient":
        if self._client is None:
            raise AssertionError("a catalogue without a client asks nobody")
        return self._client

    async def _find(self, model_id: str) -> ModelEntry:
        local = await asyncio.to_thread(find_model, model_id, self._directories)
        if local:
            return local
        if kept := await asyncio.to_thread(self._kept.find, model_id, fresh=bool(self._client)):
            return kept
        if self._client is None:
            near = await self._similar(model_id, here=True)
            pull = f"`comfyline models pull {model_id}` takes it from RunComfy"
            raise _unknown(model_id, "none is cached", near or pull)
        try:
            live = await self._live.get(model_id)
            if not live.entry.input_schema:
                raise _without_inputs(model_id)
        except (Unreachable, TryLater) as away:
            if old := await asyncio.to_thread(self._kept.find, model_id):
                return old
            if not self._unchecked:
                raise await self._not_asked(model_id, away) from away
        except InputInvalid:
            if not self._unchecked:
                raise
        else:
            if not self._reading:
                await asyncio.to_thread(self._kept.keep, model_id, live.answer)
            return live.entry
        return UncheckedModel(model_id=model_id)

    async def _fetch(self, model_id: str) -> Published:
        try:
            answer = await self._runcomfy.catalogue_entry(model_id)
            entry = ModelEntry.model_validate(answer)
        except Refused as error:
            reason = f"RunComfy gives none: {error.message}"
            raise _unknown(model_id, reason, await self._similar(model_id)) from error
        except ValidationError as error:
            raise BrokenAnswer(f"RunComfy's entry for {model_id} cannot be read") from error
        if entry.model_id != model_id:
            reason = f"RunComfy answers with {entry.model_id}"
            raise _unknown(model_id, reason, did_you_mean(model_id, [entry.model_id]))
        return Published(answer, entry)

    async def _not_asked(self, model_id: str, away: ComfylineError) -> ComfylineError:
        """Say why a model is not known, when RunComfy could not be asked."""
        if isinstance(away, Redirected):
            # Waiting does not help, and what does help is in it.
            return away
        message = f"There is no schema of {model_id} in configs/models/, none is cached, and "
        message += f"RunComfy cannot be reached for it: {away.message}"
        hint = await self._similar(model_id, here=True)
        again = f"Try again later, or `comfyline models pull {model_id}` where RunComfy answers."
        return type(away)(message, hint=f"{hint[:1].upper()}{hint[1:]} {again}".strip())

    async def _similar(self, model_id: str, *, here: bool = False) -> str:
        """Return the hint that names the model which is probably meant; empty when none is near."""
        names = [entry.model_id for entry in await asyncio.to_thread(self._kept.list)]
        with suppress(InputInvalid):
            listed = await asyncio.to_thread(list_models, self._directories)
            names += [entry.model_id for entry in listed]
        if not here:
            with suppress(ComfylineError):
                names += [entry.model_id for entry in await self.search(None, None)]
        return did_you_mean(model_id, list(dict.fromkeys(names)))


def _unknown(model_id: str, reason: str, hint: str = "") -> InputInvalid:
    message = f"there is no schema of {model_id} in configs/models/, and {reason}"
    search = "`comfyline models list` shows what there is"
    return InputInvalid([Problem("model", message, hint or search)])


def _without_inputs(model_id: str) -> InputInvalid:
    return _unknown(model_id, "RunComfy lists the model without its inputs")
