"""The outputs' own address."""

import pytest

from tests.conftest import Sandbox


@pytest.fixture(scope="module")
def url(shared_sandbox: Sandbox, files: str):
    done = shared_sandbox.finish(shared_sandbox.submit("an office", f"{files}/cat.jpg"))
    return done["output"]["images"][0]


def test_an_output_needs_no_token_and_refuses_one(sandbox: Sandbox, url: str):
    assert sandbox.open.get(url).status_code == 200
    leaked = sandbox.api.get(url)
    assert leaked.status_code == 400
    assert "Authorization" in leaked.json()["message"]


def test_an_output_has_a_length_and_serves_ranges(sandbox: Sandbox, url: str):
    whole = sandbox.open.get(url)
    assert int(whole.headers["content-length"]) == len(whole.content)
    part = sandbox.open.get(url, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == whole.content[100:200]


@pytest.mark.parametrize("name", ["1.png", "0.jpg", "..%2Fsandbox.sqlite3", "%2e%2e"])
def test_only_outputs_are_served(sandbox: Sandbox, url: str, name: str):
    assert sandbox.open.get(url.rpartition("/")[0] + "/" + name).status_code == 404
