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
from comfyline.models import catalogue as catalogue_module
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
    client = Client({**LIVE, "input_schema": {"properties": {"other": {}}}})
    catalogue = made(directory, client)

    entry = await catalogue.entry("acme/local")
    assert client.asked == 0
    priced = await catalogue.priced("acme/local")

    assert entry.input_schema == priced.input_schema == SCHEMA
    assert (priced.base_price_usd, priced.price_unit) == (2, "output")


async def test_without_a_file_the_schema_is_runcomfys_own(directory: Path) -> None:
    client = Client(LIVE)
    catalogue = made(directory, client)

    assert (await catalogue.entry("acme/live")).input_schema == SCHEMA
    assert (await catalogue.priced("acme/live")).base_price_usd == 2
    assert client.asked == 1


@pytest.mark.parametrize("answer", [Unreachable("away"), Refused("no"), {**LIVE, "model_id": 3}])
async def test_a_price_that_runcomfy_does_not_say_is_unknown(
    directory: Path, answer: Mapping[str, Any] | ComfylineError
) -> None:
    client = Client(answer)
    if not isinstance(answer, ComfylineError):
        client.answer = {"input_schema": SCHEMA, "base_price_usd": -1}

    assert (await made(directory, client).priced("acme/local")).base_price_usd is None


async def test_without_a_price_nothing_is_made_once_runcomfy_was_away_for_too_long(
    directory: Path,
) -> None:
    client = Client(Unreachable("away"))
    client.retry_budget.failed(Unreachable("away"), 0)

    with pytest.raises(Unreachable, match=r"away \(asked at its address\)"):
        await made(directory, client).priced("acme/local")
    # A plan makes nothing: it says that the price is unknown.
    assert (await made(directory, client, reading=True).priced("acme/local")).base_price_usd is None


async def test_a_thousand_jobs_do_not_each_wait_for_a_price(directory: Path) -> None:
    client = Client(Unreachable("away"))
    catalogue = made(directory, client)
    await asyncio.gather(*(catalogue.priced("acme/local") for _ in range(500)))
    for _ in range(500):
        await catalogue.priced("acme/local")
    assert client.asked == 1


@pytest.mark.parametrize("answer", [Refused("unknown model"), {"input_schema": None}])
async def test_a_model_that_nobody_knows_is_a_mistake_in_the_input(
    directory: Path, answer: Mapping[str, Any] | ComfylineError
) -> None:
    with pytest.raises(InputInvalid, match="acme/none: there is no schema in configs/models/, and"):
        await made(directory, Client(answer)).entry("acme/none")


@pytest.mark.parametrize("error", [Unreachable("away"), TokenRejected("no")])
async def test_a_model_that_cannot_be_asked_for_is_no_mistake_in_the_input(
    directory: Path, error: ComfylineError
) -> None:
    with pytest.raises(type(error)):
        await made(directory, Client(error)).entry("acme/none")


async def test_an_entry_that_makes_no_sense_is_an_error_in_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(_: str) -> Mapping[str, Any]:
        return {"model_id": ""}

    client = Client(LIVE)
    monkeypatch.setattr(client, "catalogue_entry", nonsense)

    with pytest.raises(Unreachable, match="acme/none cannot be read"):
        await made(directory, client).entry("acme/none")


async def test_a_schema_that_was_pulled_meanwhile_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "ERRORS_LAST", 60)
    catalogue = made(directory, Client(Unreachable("away")))
    with pytest.raises(Unreachable):
        await catalogue.entry("acme/new")

    (directory / "acme/new.json").write_text(
        json.dumps({"model_id": "acme/new", "input_schema": SCHEMA})
    )

    assert (await catalogue.entry("acme/new")).model_id == "acme/new"


async def test_what_only_runcomfy_knows_is_kept_and_asked_for_once(directory: Path) -> None:
    published = {**LIVE, "a_key": "that nobody knows"}
    await made(directory, Client(published)).entry("acme/live")

    away = Client(Unreachable("away"))
    entry = await made(directory, away).entry("acme/live")

    assert entry.input_schema == SCHEMA
    assert away.asked == 0
    kept = json.loads((directory.parent / "kept/acme/live.json").read_text())
    assert kept == {"model_id": "acme/live", **published}


async def test_the_projects_own_file_wins_over_what_is_kept_and_keeps_nothing(
    directory: Path,
) -> None:
    kept_file(directory, "acme/local", days_old=0)
    catalogue = made(directory, Client(LIVE))

    assert (await catalogue.priced("acme/local")).input_schema == SCHEMA

    await catalogue.published("acme/live")
    assert not (directory.parent / "kept/acme/live.json").exists()


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
async def test_an_old_copy_serves_while_runcomfy_is_away(
    directory: Path, error: ComfylineError
) -> None:
    kept_file(directory, "acme/old", days_old=400)

    assert (await made(directory, Client(error)).entry("acme/old")).input_schema["title"] == "kept"


async def test_an_old_copy_of_what_runcomfy_no_longer_has_is_not_used(directory: Path) -> None:
    kept_file(directory, "acme/old", days_old=8)

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


async def test_the_price_of_a_kept_model_is_todays_or_unknown(directory: Path) -> None:
    kept_file(directory, "acme/live", days_old=1, base_price_usd=9, price_unit="output")

    assert (await made(directory, Client(LIVE)).priced("acme/live")).base_price_usd == 2
    away = made(directory, Client(Unreachable("away")))
    assert (await away.priced("acme/live")).base_price_usd is None


async def test_offline_and_unknown_says_what_is_missing_and_what_is_near(directory: Path) -> None:
    kept_file(directory, "acme/panorama", days_old=1)

    with pytest.raises(Unreachable) as caught:
        await made(directory, Client(Unreachable("RunComfy is away"))).entry("acme/panoramas")

    assert "no schema of acme/panoramas" in caught.value.message
    assert "RunComfy is away" in caught.value.message
    assert "Did you mean `acme/panorama`?" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "near"), [("acme/lokal", "acme/local"), ("acme/livly", "acme/lively")]
)
async def test_a_misspelt_model_is_told_the_nearest_of_all_places(
    directory: Path, asked: str, near: str
) -> None:
    with pytest.raises(InputInvalid) as caught:
        await made(directory, Client(Refused("unknown model"))).entry(asked)

    assert caught.value.problems[0].hint == f"did you mean `{near}`?"


async def test_an_answer_about_another_model_is_not_taken(directory: Path) -> None:
    client = Client({**LIVE, "model_id": "acme/live-2"})

    with pytest.raises(InputInvalid, match="answers with acme/live-2"):
        await made(directory, client).entry("acme/live")
    with pytest.raises(InputInvalid, match="answers with acme/live-2"):
        await made(directory, client).published("acme/live")


async def test_where_the_api_has_moved_is_said_as_it_is(directory: Path) -> None:
    moved = Redirected("RunComfy sends elsewhere", hint="Mend base_url.")

    for asking in (made(directory, Client(moved)).entry, made(directory, Client(moved)).published):
        with pytest.raises(Redirected) as caught:
            await asking("acme/live")
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
    assert not isinstance(
        await made(directory, Client(LIVE), unchecked=True).entry("acme/live"), UncheckedModel
    )
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
