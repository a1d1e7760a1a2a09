"""Where a model's schema and its price come from, and what is said when they are not there."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import (
    ComfylineError,
    InputInvalid,
    Redirected,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.models.catalogue import FRESH_SECONDS, Catalogue, ModelCache, SingleFlight
from comfyline.models.entry import UncheckedModel
from comfyline.runcomfy.retry import RetryBudget

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
LIVE = {
    "input_schema": SCHEMA,
    "base_price_usd": 2,
    "price_unit": "output",
}


class Client:
    """Stands in for the API: answers or raises what it is told, and counts."""

    def __init__(self, answer: Mapping[str, Any] | ComfylineError) -> None:
        self.answer = answer
        self.asked = 0
        self.retry_budget = RetryBudget(0, time.monotonic)

    async def catalogue_entry(self, model_id: str) -> Mapping[str, Any]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if isinstance(self.answer, ComfylineError):
            raise self.answer
        return {"model_id": model_id, **self.answer}

    async def models(self, **_filters: str | None) -> list[Mapping[str, Any]]:
        if isinstance(self.answer, Unreachable):
            raise self.answer
        return [{"model_id": "acme/live"}, {"model_id": 3}, {"model_id": "acme/lively"}]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "models/acme").mkdir(parents=True)
    local = {"model_id": "acme/local", "input_schema": SCHEMA, "base_price_usd": 9}
    (tmp_path / "models/acme/local.json").write_text(json.dumps(local))
    return tmp_path / "models"


def made(directory: Path, client: Client, **options: bool) -> Catalogue:
    kept = ModelCache(directory.parent / "kept")
    return Catalogue((directory,), client, kept, **options)  # type: ignore[arg-type]


def kept_file(directory: Path, model_id: str, *, days_old: float, **changes: Any) -> Path:
    path = directory.parent / f"kept/{model_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"model_id": model_id, "input_schema": {**SCHEMA, "title": "kept"}, **changes}
    path.write_text(json.dumps(entry))
    written = time.time() - days_old * 24 * 3600
    os.utime(path, (written, written))
    return path


async def test_the_schema_is_the_files_and_the_price_is_todays(directory: Path) -> None:
    kept_file(directory, "acme/local", days_old=0)
    client = Client({**LIVE, "input_schema": {"properties": {"other": {}}}})
    catalogue = made(directory, client)

    entry = await catalogue.entry("acme/local")
    assert client.asked == 0
    priced = await catalogue.priced("acme/local")

    assert entry.input_schema == priced.input_schema == SCHEMA
    assert (priced.base_price_usd, priced.price_unit) == (2, "output")


@pytest.mark.parametrize(
    "answer", [Unreachable("away"), Refused("no"), {"input_schema": SCHEMA, "base_price_usd": -1}]
)
async def test_a_price_that_runcomfy_does_not_say_is_unknown(
    directory: Path, answer: Mapping[str, Any] | ComfylineError
) -> None:
    client = Client(answer)
    catalogue = made(directory, client)

    await asyncio.gather(*(catalogue.priced("acme/local") for _ in range(100)))

    assert (await catalogue.priced("acme/local")).base_price_usd is None
    # Many jobs do not each wait for it.
    assert client.asked == 1


async def test_without_a_price_nothing_is_made_once_runcomfy_was_away_for_too_long(
    directory: Path,
) -> None:
    client = Client(Unreachable("away"))
    client.retry_budget.failed(Unreachable("away"), 0)

    with pytest.raises(Unreachable, match=r"away \(asked at its address\)"):
        await made(directory, client).priced("acme/local")
    # A plan makes nothing: it says that the price is unknown.
    assert (await made(directory, client, reading=True).priced("acme/local")).base_price_usd is None


@pytest.mark.parametrize(
    ("answer", "raised", "said"),
    [
        (Refused("unknown"), InputInvalid, "there is no schema of acme/none in configs/models/"),
        ({"input_schema": None}, InputInvalid, "RunComfy lists the model without its inputs"),
        ({**LIVE, "model_id": "acme/live-2"}, InputInvalid, "answers with acme/live-2"),
        ({**LIVE, "model_id": ""}, Unreachable, "acme/none cannot be read"),
        (Unreachable("away"), Unreachable, "no schema of acme/none in configs/models/"),
        (TokenRejected("no"), TokenRejected, "no"),
        (Redirected("elsewhere", hint="Mend base_url."), Redirected, "elsewhere"),
    ],
)
async def test_a_model_that_is_not_to_be_had_is_told_with_the_reason(
    directory: Path,
    answer: Mapping[str, Any] | ComfylineError,
    raised: type[Exception],
    said: str,
) -> None:
    with pytest.raises(raised, match=said):
        await made(directory, Client(answer)).entry("acme/none")


async def test_a_schema_that_was_pulled_meanwhile_is_found(directory: Path) -> None:
    catalogue = made(directory, Client(Unreachable("away")))
    with pytest.raises(Unreachable):
        await catalogue.entry("acme/new")

    pulled = {"model_id": "acme/new", "input_schema": SCHEMA}
    (directory / "acme/new.json").write_text(json.dumps(pulled))

    assert (await catalogue.entry("acme/new")).model_id == "acme/new"


async def test_what_only_runcomfy_knows_is_kept_and_asked_for_once(directory: Path) -> None:
    published = {**LIVE, "a_key": "that nobody knows"}
    client, away = Client(published), Client(Unreachable("away"))
    catalogue = made(directory, client)

    assert (await catalogue.entry("acme/live")).input_schema == SCHEMA
    assert (await catalogue.priced("acme/live")).base_price_usd == 2
    assert client.asked == 1
    offline = made(directory, away)
    assert (await offline.entry("acme/live")).input_schema == SCHEMA
    assert away.asked == 0
    assert (await offline.priced("acme/live")).base_price_usd is None
    kept = json.loads((directory.parent / "kept/acme/live.json").read_text())
    assert kept == {"model_id": "acme/live", **published}


async def test_a_plan_uses_what_is_kept_and_keeps_nothing(directory: Path) -> None:
    kept_file(directory, "acme/kept", days_old=1)
    client = Client(LIVE)
    catalogue = made(directory, client, reading=True)

    assert (await catalogue.entry("acme/kept")).input_schema["title"] == "kept"
    assert client.asked == 0
    await catalogue.priced("acme/live")
    assert not (directory.parent / "kept/acme/live.json").exists()


@pytest.mark.parametrize("days", [7.1, -1])
async def test_an_old_copy_is_asked_for_anew(directory: Path, days: float) -> None:
    path = kept_file(directory, "acme/old", days_old=days)

    assert "title" not in (await made(directory, Client(LIVE)).entry("acme/old")).input_schema
    assert 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS
    assert "title" not in json.loads(path.read_text())["input_schema"]


@pytest.mark.parametrize("error", [Unreachable("away"), TryLater("slow down")])
async def test_an_old_copy_serves_only_while_runcomfy_is_away(
    directory: Path, error: ComfylineError
) -> None:
    kept_file(directory, "acme/old", days_old=400)

    assert (await made(directory, Client(error)).entry("acme/old")).input_schema["title"] == "kept"
    with pytest.raises(InputInvalid, match="no such model"):
        await made(directory, Client(Refused("no such model"))).entry("acme/old")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_id": "acme/another"}', ""])
async def test_a_broken_copy_is_replaced(directory: Path, content: str) -> None:
    path = kept_file(directory, "acme/live", days_old=0)
    path.write_text(content)

    assert (await made(directory, Client(LIVE)).entry("acme/live")).input_schema == SCHEMA
    assert json.loads(path.read_text())["model_id"] == "acme/live"


async def test_a_copy_that_cannot_be_kept_stops_nothing(directory: Path) -> None:
    (directory.parent / "kept").write_text("a file where a folder should be")

    assert (await made(directory, Client(LIVE)).entry("acme/live")).input_schema == SCHEMA


@pytest.mark.parametrize(
    ("answer", "asked", "hint"),
    [
        (Unreachable("away"), "acme/panoramas", "Did you mean `acme/panorama`?"),
        (Refused("unknown model"), "acme/lokal", "did you mean `acme/local`?"),
        (Refused("unknown model"), "acme/livly", "did you mean `acme/lively`?"),
    ],
)
async def test_a_misspelt_model_is_told_the_nearest_of_all_places(
    directory: Path, answer: ComfylineError, asked: str, hint: str
) -> None:
    kept_file(directory, "acme/panorama", days_old=1)

    with pytest.raises(ComfylineError) as caught:
        await made(directory, Client(answer)).entry(asked)

    assert hint in f"{caught.value} {caught.value.hint}"


async def test_what_is_published_is_not_kept_and_where_the_api_has_moved_is_said(
    directory: Path,
) -> None:
    assert (await made(directory, Client(LIVE)).published("acme/live"))["base_price_usd"] == 2
    assert not (directory.parent / "kept/acme/live.json").exists()
    moved = Redirected("RunComfy sends elsewhere", hint="Mend base_url.")
    with pytest.raises(Redirected) as caught:
        await made(directory, Client(moved)).published("acme/live")
    assert caught.value.hint == "Mend base_url."


@pytest.mark.parametrize(
    "answer", [Unreachable("away"), TryLater("slow"), Refused("no"), {"input_schema": None}]
)
async def test_unchecked_takes_a_model_of_which_nothing_is_known(
    directory: Path, answer: Mapping[str, Any] | ComfylineError
) -> None:
    entry = await made(directory, Client(answer), unchecked=True).priced("acme/none")

    assert isinstance(entry, UncheckedModel)
    assert entry.base_price_usd is None


async def test_unchecked_still_checks_what_is_known_and_needs_a_token(directory: Path) -> None:
    known = await made(directory, Client(LIVE), unchecked=True).entry("acme/live")

    assert not isinstance(known, UncheckedModel)
    with pytest.raises(TokenRejected):
        await made(directory, Client(TokenRejected("no")), unchecked=True).entry("acme/none")


async def test_what_has_no_id_is_left_out_of_the_catalogue(directory: Path) -> None:
    found = await made(directory, Client(LIVE)).search(None, None)

    assert [entry.model_id for entry in found] == ["acme/live", "acme/lively"]


class Oracle:
    """Counts who asks, and fails as long as it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False
        self.time = 0.0

    async def ask(self, name: str) -> str:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.broken:
            raise ValueError(name)
        return name.upper()

    def clock(self) -> float:
        return self.time


async def test_all_who_ask_at_once_share_one_question() -> None:
    oracle = Oracle()
    once = SingleFlight(oracle.ask, 60)

    assert await asyncio.gather(*(once.get("a") for _ in range(20))) == ["A"] * 20
    assert await once.get("a") == "A"
    assert oracle.asked == 1


async def test_an_error_is_remembered_for_a_while_and_not_for_ever() -> None:
    oracle = Oracle()
    oracle.broken = True
    once = SingleFlight(oracle.ask, 60, oracle.clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="a"):
            await once.get("a")
    assert oracle.asked == 1

    oracle.broken, oracle.time = False, 61

    assert await once.get("a") == "A"


async def test_who_is_cancelled_does_not_cancel_what_others_wait_for() -> None:
    once = SingleFlight(Oracle().ask, 60)
    first = asyncio.create_task(once.get("a"))
    second = asyncio.create_task(once.get("a"))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == "A"
    assert first.cancelled()
