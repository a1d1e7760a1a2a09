import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from comfyline import catalogue as catalogue_module
from comfyline.catalogue import Catalogue
from comfyline.errors import ComfylineError, InputInvalid, Refused, TokenRejected, Unreachable

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
LIVE = {
    "model_id": "acme/live",
    "input_schema": SCHEMA,
    "base_price_usd": 2,
    "price_unit": "output",
}


class Client:
    """Stands in for the API: answers or raises what it is told, and counts."""

    def __init__(self, answer: Mapping[str, Any] | ComfylineError) -> None:
        self.answer = answer
        self.asked = 0

    async def catalogue_entry(self, model_id: str) -> Mapping[str, Any]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if isinstance(self.answer, ComfylineError):
            raise self.answer
        return {**self.answer, "model_id": model_id}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "acme").mkdir()
    local = {"model_id": "acme/local", "input_schema": SCHEMA, "base_price_usd": 9}
    (tmp_path / "acme/local.json").write_text(json.dumps(local))
    return tmp_path


def made(directory: Path, client: Client) -> Catalogue:
    return Catalogue((directory,), client)  # type: ignore[arg-type]


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


async def test_a_thousand_jobs_do_not_each_wait_for_a_price(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(Unreachable("away"))
    catalogue = made(directory, client)
    await asyncio.gather(*(catalogue.priced("acme/local") for _ in range(500)))
    for _ in range(500):
        await catalogue.priced("acme/local")
    assert client.asked == 1

    monkeypatch.setattr(catalogue._live, "_patience", 0)
    client.answer = LIVE

    assert (await catalogue.priced("acme/local")).base_price_usd == 2


async def test_all_who_ask_at_once_share_one_request(directory: Path) -> None:
    client = Client(LIVE)
    catalogue = made(directory, client)

    await asyncio.gather(
        *(catalogue.entry("acme/live") for _ in range(20)),
        *(catalogue.priced("acme/live") for _ in range(20)),
    )

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
    monkeypatch.setattr(catalogue_module, "_ERRORS_LAST", 60)
    catalogue = made(directory, Client(Unreachable("away")))
    with pytest.raises(Unreachable):
        await catalogue.entry("acme/new")

    (directory / "acme/new.json").write_text(
        json.dumps({"model_id": "acme/new", "input_schema": SCHEMA})
    )

    assert (await catalogue.entry("acme/new")).model_id == "acme/new"
