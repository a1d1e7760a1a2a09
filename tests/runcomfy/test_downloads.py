"""Outputs: whole under their name or not there at all, from allowed hosts, without a token."""

import base64
import gzip
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import BrokenOutput, OutputUnreachable
from comfyline.job import MediaInfo
from comfyline.media.probe import check_beginning, check_whole
from comfyline.runcomfy.allowed_hosts import AllowedHosts
from comfyline.runcomfy.download import Download, Downloads
from comfyline.runcomfy.results import output_urls
from tests.conftest import Sandbox
from tests.runcomfy.conftest import FakeTime, Script

HOSTS = ("*.runcomfy.net", "*.RunComfy.com")


def downloaded(content: bytes) -> Download:
    return Download(hashlib.sha256(content).hexdigest(), len(content))


class Picture:
    """Proves that an output is a picture, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def begins(self, head: bytes) -> None:
        check_beginning(head, "image")

    def whole(self, path: Path) -> MediaInfo:
        self.asked += 1
        return check_whole(path, "image")


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
async def downloads(script: Script, time: FakeTime) -> AsyncIterator[Downloads]:
    async with Downloads(HOSTS, script.url, most_bytes=10**7, sleep=time.sleep) as downloads:
        yield downloads


@pytest.fixture
async def from_sandbox(sandbox: Sandbox, time: FakeTime) -> AsyncIterator[Downloads]:
    async with Downloads((), sandbox.url, sleep=time.sleep) as downloads:
        yield downloads


@pytest.fixture(scope="module")
def output(shared_sandbox: Sandbox, files: str) -> str:
    done = shared_sandbox.finish(shared_sandbox.submit("an office", f"{files}/cat.jpg"))
    return str(done["output"]["images"][0])


async def test_a_whole_file_arrives_with_its_hash_and_no_token_is_sent(
    from_sandbox: Downloads, sandbox: Sandbox, output: str, tmp_path: Path
):
    content = sandbox.open.get(output).content
    # The sandbox's CDN answers 400 to an Authorization header.
    assert await from_sandbox.save(output, tmp_path / "a") == downloaded(content)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.parametrize("kind", ["drop", "truncate", "empty", "status"])
async def test_what_passes_is_tried_again(
    from_sandbox: Downloads, sandbox: Sandbox, output: str, tmp_path: Path, kind: str
):
    sandbox.order(on="cdn", kind=kind, times=4)
    download = await from_sandbox.save(output, tmp_path / "a")
    assert download.bytes == (tmp_path / "a").stat().st_size


@pytest.mark.parametrize(
    ("kind", "times", "error"),
    [
        ("drop", 5, OutputUnreachable),
        ("truncate", 5, OutputUnreachable),
        ("empty", 5, BrokenOutput),
        ("status", 5, BrokenOutput),
    ],
)
async def test_what_does_not_pass_leaves_nothing_behind(
    from_sandbox: Downloads,
    sandbox: Sandbox,
    output: str,
    tmp_path: Path,
    kind: str,
    times: int,
    error: type[Exception],
):
    sandbox.order(on="cdn", kind=kind, times=times)
    with pytest.raises(error):
        await from_sandbox.save(output, tmp_path / "a")
    assert names(tmp_path) == []
    assert sandbox.open.get("/sandbox/faults").json() == []


async def test_a_page_with_http_200_is_refused_and_asked_for_again(
    from_sandbox: Downloads, sandbox: Sandbox, output: str, tmp_path: Path
):
    sandbox.order(on="cdn", kind="html")
    download = await from_sandbox.save(output, tmp_path / "a", Picture())
    assert download.info.media_type == "image/png"
    sandbox.order(on="cdn", kind="html", times=5)
    with pytest.raises(BrokenOutput, match="doctype html"):
        await from_sandbox.save(output, tmp_path / "b", Picture())
    assert names(tmp_path) == ["a"]


async def test_what_is_no_output_after_all_is_fetched_twice_and_not_kept(
    downloads: Downloads, script: Script, tmp_path: Path
):
    # The beginning is that of a picture.
    script.say(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    proof = Picture()
    with pytest.raises(BrokenOutput, match="broken image/png"):
        await downloads.save(f"{script.url}/a", tmp_path / "a", proof)
    assert (len(script.calls), proof.asked, names(tmp_path)) == (2, 2, [])


@pytest.mark.parametrize(
    ("status", "tries"), [(403, 1), (401, 1), (302, 1), (204, 1), (404, 5), (429, 5), (503, 5)]
)
async def test_a_refusal_that_cannot_change_is_not_tried_again(
    downloads: Downloads, script: Script, tmp_path: Path, status: int, tries: int
):
    script.say(b"", status)
    with pytest.raises(BrokenOutput, match=str(status)):
        await downloads.save(f"{script.url}/a", tmp_path / "a")
    assert len(script.calls) == tries


async def test_an_output_that_comes_packed_all_the_same_is_unpacked(
    downloads: Downloads, script: Script, tmp_path: Path
):
    content = b"picture" * 1000
    script.say(gzip.compress(content), Content_Encoding="gzip")
    assert await downloads.save(f"{script.url}/a", tmp_path / "a") == downloaded(content)
    script.answers.clear()
    script.say(b"no gzip", Content_Encoding="gzip")
    with pytest.raises(BrokenOutput, match="cannot be decompressed"):
        await downloads.save(f"{script.url}/b", tmp_path / "b")
    script.answers.clear()
    script.say(b"any", Content_Encoding="br")
    with pytest.raises(BrokenOutput, match="compressed with 'br'"):
        await downloads.save(f"{script.url}/c", tmp_path / "c")


async def test_a_file_beyond_the_limit_is_refused(
    downloads: Downloads, script: Script, tmp_path: Path
):
    script.say(gzip.compress(b"\0" * (10**7 + 1)), Content_Encoding="gzip")
    with pytest.raises(BrokenOutput, match="larger than 10000000"):
        await downloads.save(f"{script.url}/a", tmp_path / "a")
    assert len(script.calls) == 1
    assert names(tmp_path) == []


LISTED = Downloads(HOSTS, "https://api.test")


def test_a_listed_host_is_allowed_however_it_is_written():
    for url in (
        "https://cdn.runcomfy.net/a",
        "https://CDN.RUNCOMFY.NET/a",
        "https://a.b.runcomfy.com:443/a?x=1",
        "https://api.test/a",
        "HTTPS://API.TEST/a",
    ):
        AllowedHosts(HOSTS, "https://api.test").check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.runcomfy.net/a",
        "ftp://cdn.runcomfy.net/a",
        "https://runcomfy.net/a",
        "https://evil.test/a",
        "https://evilruncomfy.net/a",
        "https://cdn.runcomfy.net.evil.test/a",
        "https://cdn.runcomfy.net@evil.test/",
        "https://cdn.runcomfy.net:443@evil.test/",
        "https://cdn.runcomfy.net:x@evil.test/",
        "https://evil.test:8443/.runcomfy.net",
        "https://evil.test/.runcomfy.net",
        "https://evil.test?.runcomfy.net",
        "https://evil.test#.runcomfy.net",
        "https://evil.test\\.runcomfy.net/",
        "https://evil.test\\@cdn.runcomfy.net/",
        "https://evil.test%2f.runcomfy.net/",
        "https://evil.test/\n.runcomfy.net",
        "https://cdn.runcomfy.net./a",
        "https://user:secret@cdn.runcomfy.net/a",
        "https://[::1]/a",
        "https://127.0.0.1/a",
        "https:///a",
        "https://",
        "https://cdn.runcomfy.net:99999/a",
        "https://[cdn.runcomfy.net/a",
        "https://127.0.0.1:1@cdn.runcomfy.net/a",
    ],
)
async def test_any_other_host_is_refused(tmp_path: Path, url: str):
    with pytest.raises(BrokenOutput) as raised:
        await LISTED.save(url, tmp_path / "a")
    assert "secret" not in str(raised.value)
    assert names(tmp_path) == []


@given(st.text(), st.text(alphabet="/\\@:?#.%[] a", max_size=4))
def test_nothing_gets_past_the_list_of_hosts(text: str, between: str):
    for url in (
        f"https://{text}{between}cdn.runcomfy.net/",
        f"https://cdn.runcomfy.net{between}{text}/",
    ):
        try:
            allowed = AllowedHosts(HOSTS, "https://api.test").check(url).url
        except BrokenOutput:
            continue
        # What is connected to, and not what another parser would make of it.
        assert allowed.raw_host.lower().endswith((b".runcomfy.net", b".runcomfy.com"))
        assert (allowed.scheme, allowed.userinfo) == ("https", b"")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 3 * 1024 * 1024 + 7])
async def test_a_data_uri_is_written_like_any_other_output(
    downloads: Downloads, tmp_path: Path, size: int
):
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert await downloads.save(uri, tmp_path / "a") == downloaded(content)
    assert (tmp_path / "a").read_bytes() == content


async def test_a_data_uri_may_be_plain(downloads: Downloads, tmp_path: Path):
    await downloads.save("DATA:image/svg+xml,%3Csvg%2F%3E", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"<svg/>"


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64,AAA",
        "data:image/png;base64,AA==AA==",
        "data:image/png;base64,AA!A",
        "data:image/png;base64,ÄÄÄÄ",
        "data:image/png;base64,\ud800",
        "data:image/png;base64",
    ],
)
async def test_a_broken_data_uri_leaves_nothing_behind(
    downloads: Downloads, tmp_path: Path, uri: str
):
    with pytest.raises(BrokenOutput):
        await downloads.save(uri, tmp_path / "a")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (None, []),
        ({}, []),
        ("https://a.test/1", ["https://a.test/1"]),
        ({"image": "https://a.test/1"}, ["https://a.test/1"]),
        ({"image": "HTTPS://a.test/1"}, ["HTTPS://a.test/1"]),
        ({"images": ["https://a.test/1", "data:,x"]}, ["https://a.test/1", "data:,x"]),
        (
            {"video": {"url": "https://a.test/v", "seconds": 5}, "prompt": "an https:// in it"},
            ["https://a.test/v"],
        ),
        (
            {"b": [{"x": [["https://a.test/1"]]}, "https://a.test/2"], "a": "https://a.test/3"},
            ["https://a.test/1", "https://a.test/2", "https://a.test/3"],
        ),
    ],
)
def test_outputs_are_found_in_order_however_they_are_nested(output: Any, urls: list[str]):
    assert list(output_urls(output)) == urls
