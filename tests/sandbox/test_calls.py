"""The calls that answer at once: the catalogue, the outputs' own address, and the refusals."""

from typing import Any

import httpx
import pytest

from tests.conftest import Sandbox

EDIT = "/v1/models/google/nano-banana/pro/edit"
GOOD = {"prompt": "an office", "image_urls": ["https://example.com/a.png"]}


def ids(answer: httpx.Response):
    return [entry["model_id"] for entry in answer.json()["models"]]


def test_the_catalogue_is_paged_searched_and_filtered(sandbox: Sandbox):
    def listed(**params: Any) -> httpx.Response:
        return sandbox.api.get("/v1/models", params=params)

    whole = listed()
    pages = [listed(limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [name for page in pages for name in ids(page)] == ids(whole)[:6]
    assert whole.json()["total"] == len(ids(whole)) >= 4
    assert ids(listed(search="ACME/")) == ["acme/brush", "acme/chalk", "acme/film"]
    films = ids(listed(category="text-to-video"))
    assert "acme/film" in films
    assert "acme/brush" not in films
    assert ids(listed(kind="workflow")) == []
    [short] = listed(search="nano-banana/pro").json()["models"]
    assert "input_schema" not in short
    assert (short["base_price_usd"], short["price_unit"]) == (0.14, "output")
    [long] = listed(search="nano-banana/pro", include_schema=True).json()["models"]
    assert long == sandbox.api.get(EDIT).json()
    assert long["input_schema"]["required"] == ["prompt", "image_urls"]


def test_an_output_needs_no_token_refuses_one_and_serves_ranges(sandbox: Sandbox, files: str):
    done = sandbox.finish(sandbox.submit("an office", f"{files}/cat.jpg"))
    url = done["output"]["images"][0]
    whole = sandbox.open.get(url)
    assert int(whole.headers["content-length"]) == len(whole.content)
    part = sandbox.open.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    leaked = sandbox.api.get(url)
    assert leaked.status_code == 400
    assert "Authorization" in leaked.json()["message"]
    for name in ("1.png", "0.jpg", "..%2Fsandbox.sqlite3", "%2e%2e"):
        assert sandbox.open.get(url.rpartition("/")[0] + "/" + name).status_code == 404


@pytest.mark.parametrize("header", [None, "Bearer wrong", "sandbox-token", "Basic sandbox-token"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/requests/abc/status", "/prod/v2/balance"])
def test_every_call_demands_the_token(sandbox: Sandbox, header: str | None, path: str):
    headers = {"Authorization": header} if header else {}
    answer = sandbox.open.get(path, headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (401, 400004)


def test_an_unknown_model_is_400001_and_an_unknown_request_404001(sandbox: Sandbox):
    answer = sandbox.api.post("/v1/models/no/such/model", json=GOOD)
    assert (answer.status_code, answer.json()["error_code"]) == (400, 400001)
    assert sandbox.api.get("/v1/models/no/such/model").json()["error_code"] == 400001
    for method, call in (("GET", "status"), ("GET", "result"), ("POST", "cancel")):
        answer = sandbox.api.request(method, f"/v1/requests/nobody/{call}")
        assert (answer.status_code, answer.json()["error_code"]) == (404, 404001)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b'{"prompt": NaN}', b"\xff"])
def test_a_body_that_is_no_json_object_is_422(sandbox: Sandbox, body: bytes):
    answer = sandbox.api.post(EDIT, content=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": None}, ["prompt"]),
        ({"aspect_ratio": "7:3"}, ["aspect_ratio"]),
        ({"num_images": 5}, ["num_images"]),
        ({"num_images": True}, ["num_images"]),
        ({"num_images": 1.5}, ["num_images"]),
        ({"sync_mode": "yes"}, ["sync_mode"]),
        ({"image_urls": []}, ["image_urls"]),
        ({"image_urls": "https://example.com/a.png"}, ["image_urls"]),
        ({"image_urls": ["https://example.com/a.png"] * 21}, ["image_urls"]),
        ({"image_urls": ["https://e.com/a.png", "http://e.com/a.png"]}, ["image_urls", 1]),
        ({"image_urls": ["data:image/png;base64,AAAA"]}, ["image_urls", 0]),
        ({"image_urls": ["photo.jpg"]}, ["image_urls", 0]),
        ({"image_urls": ["https://[broken"]}, ["image_urls", 0]),
    ],
)
def test_an_input_that_does_not_fit_is_422_and_names_the_field(
    sandbox: Sandbox, change: dict[str, Any], field: list[str | int]
):
    answer = sandbox.api.post(EDIT, json={**GOOD, **change})
    assert answer.status_code == 422
    assert ["body", *field] in [fault["loc"] for fault in answer.json()["detail"]]


def test_all_mistakes_are_listed_and_a_required_default_is_never_filled_in(sandbox: Sandbox):
    before = len(sandbox.account()["requests"])
    answer = sandbox.api.post(EDIT, json={"resolution": "8K"})
    fields = [fault["loc"] for fault in answer.json()["detail"]]
    assert fields == [["body", "image_urls"], ["body", "prompt"], ["body", "resolution"]]
    assert len(sandbox.account()["requests"]) == before
