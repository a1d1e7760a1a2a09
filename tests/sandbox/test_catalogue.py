"""The catalogue of models."""

import httpx

from tests.conftest import Sandbox


def ids(answer: httpx.Response):
    return [entry["model_id"] for entry in answer.json()["models"]]


def test_the_catalogue_is_paged_and_says_how_many_there_are(sandbox: Sandbox):
    pages = [
        sandbox.api.get("/v1/models", params={"limit": 2, "offset": offset}) for offset in (0, 2, 4)
    ]
    whole = sandbox.api.get("/v1/models")
    assert [name for page in pages for name in ids(page)] == ids(whole)[:6]
    assert whole.json()["total"] == len(ids(whole)) >= 4
    assert "google/nano-banana/pro/edit" in ids(whole)


def test_the_catalogue_is_searched_and_filtered(sandbox: Sandbox):
    get = sandbox.api.get
    assert ids(get("/v1/models", params={"search": "ACME/"})) == [
        "acme/brush",
        "acme/chalk",
        "acme/film",
    ]
    films = ids(get("/v1/models", params={"category": "text-to-video"}))
    assert "acme/film" in films
    assert "acme/brush" not in films
    assert ids(get("/v1/models", params={"kind": "workflow"})) == []


def test_schemas_come_when_asked_for_and_prices_always(sandbox: Sandbox):
    short = sandbox.api.get("/v1/models", params={"search": "nano-banana/pro"}).json()["models"][0]
    assert "input_schema" not in short
    assert short["base_price_usd"] == 0.14
    assert short["price_unit"] == "output"
    params = {"search": "nano-banana/pro", "include_schema": True}
    long = sandbox.api.get("/v1/models", params=params).json()["models"][0]
    assert long == sandbox.api.get("/v1/models/google/nano-banana/pro/edit").json()
    assert long["input_schema"]["required"] == ["prompt", "image_urls"]
