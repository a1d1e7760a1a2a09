"""Outputs, case by case: each ends in a typed error or a good file, whole under its name."""

import asyncio
import base64
import hashlib
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import BrokenOutput, ComfylineError, DiskFull, OutputUnreachable
from comfyline.job import FileInfo
from comfyline.runcomfy import download as download_module
from comfyline.runcomfy.allowed_hosts import RefusedOutput
from comfyline.runcomfy.download import Downloads
from tests.runcomfy.conftest import FakeTime
from tests.runcomfy.hostile import GOOD, OTHER, Hostile, hostile_cdn, large
from tests.runcomfy.tls import certificate


@pytest.fixture(scope="module")
def cdn() -> Iterator[Hostile]:
    with hostile_cdn() as hostile:
        yield hostile


@pytest.fixture
async def downloads(cdn: Hostile, time: FakeTime) -> AsyncIterator[Downloads]:
    async with Downloads((), cdn.url, most_bytes=4_000_000, sleep=time.sleep) as downloads:
        yield downloads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def everything(folder: Path) -> list[str]:
    """All files in and around the folder that a download may write to."""
    around = folder.parent
    return sorted(str(p.relative_to(around)) for p in around.rglob("*") if p.is_file())


async def save(downloads: Downloads, url: str, folder: Path) -> FileInfo:
    """A picture under `1`; whatever happens, nothing else is there afterwards."""
    try:
        download = await downloads.save(url, folder / "1", "image", svg=True)
    except ComfylineError as error:
        shown = str(error)
        assert everything(folder) == []
        # A query may be a signature.
        assert "secret" not in shown
        raise
    assert everything(folder) == ["outputs/1"]
    content = (folder / "1").read_bytes()
    assert (download.sha256, download.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    return download


@pytest.mark.parametrize(
    ("case", "content", "requests"),
    [
        ("good", GOOD, 1),
        ("packed", GOOD, 1),
        ("hop/3", GOOD, 1),
        ("page_once", GOOD, 2),
        ("resumed", GOOD, 2),
        ("ranges_ignored", GOOD, 2),
        ("no_tag_to_go_on_by", GOOD, 2),
        ("changed_in_between", OTHER, 2),
        ("part_of_another_file", GOOD, 3),
        ("another_part", GOOD, 3),
        ("range_refused", GOOD, 3),
    ],
)
async def test_a_good_file_is_had_in_spite_of_everything(
    downloads: Downloads, cdn: Hostile, folder: Path, case: str, content: bytes, requests: int
):
    path = f"/{case}/1.png?secret"
    download = await save(downloads, f"{cdn.url}{path}", folder)
    assert (folder / "1").read_bytes() == content
    assert download.info.media_type == "image/png"
    assert len(cdn.asked[path]) == requests
    assert not {"cookie", "authorization", "referer"} & set(cdn.asked[path][-1].headers)
    if case == "resumed":
        first, second = (asked.headers for asked in cdn.asked[path])
        assert "range" not in first
        assert second["range"] == f"bytes={len(GOOD) // 2 // 2**18 * 2**18}-"
        assert second["if-range"] == '"one"'


CUT = r"closed before the answer was complete after [\d,]+ of [\d,]+ bytes"


@pytest.mark.parametrize(
    ("case", "kind", "words", "requests"),
    [
        ("truncated", OutputUnreachable, CUT, 5),
        ("length_too_long", OutputUnreachable, CUT, 5),
        ("no_http", OutputUnreachable, "closed before the answer was complete", 5),
        ("endless_head", OutputUnreachable, "closed before the answer was complete", 5),
        ("truncated_without_length", BrokenOutput, "broken image/png", 5),
        ("length_too_short", BrokenOutput, "broken image/png", 5),
        ("packed_and_cut", BrokenOutput, "broken image/png", 5),
        ("packed_wrongly", BrokenOutput, "cannot be decompressed", 5),
        ("packed_otherwise", BrokenOutput, "cannot be decompressed", 5),
        ("empty", BrokenOutput, "is empty", 5),
        ("page", BrokenOutput, "doctype html", 5),
        ("endless_page", BrokenOutput, "doctype html", 5),
        ("video", BrokenOutput, "video/mp4, but the model makes image", 5),
        ("png_bomb", BrokenOutput, "more pixels than", 5),
        ("part_nobody_asked_for", BrokenOutput, "not requested", 5),
        ("status/404", BrokenOutput, "404", 5),
        ("status/429", BrokenOutput, "429", 5),
        ("status/503", BrokenOutput, "503", 5),
        ("status/204", RefusedOutput, "204", 1),
        ("status/302", RefusedOutput, "302", 1),
        ("status/403", RefusedOutput, "403", 1),
        ("endless", RefusedOutput, "larger than 4000000", 1),
        ("gzip_bomb", RefusedOutput, "larger than 4000000", 1),
        ("length_beyond_the_limit", RefusedOutput, "larger than 4000000", 1),
        ("hop/4", RefusedOutput, "more than 3 times", 1),
    ],
)
async def test_what_is_bad_for_good_ends_in_words(
    downloads: Downloads,
    cdn: Hostile,
    folder: Path,
    case: str,
    kind: type[ComfylineError],
    words: str,
    requests: int,
):
    path = f"/{case}/bad.png?secret"
    with pytest.raises(kind, match=words):
        await save(downloads, f"{cdn.url}{path}", folder)
    assert len(cdn.asked[path]) == requests


async def test_a_large_file_is_had_from_a_server_that_breaks_off_again_and_again(
    cdn: Hostile, time: FakeTime, folder: Path
):
    async with Downloads((), cdn.url, sleep=time.sleep) as downloads:
        await save(downloads, f"{cdn.url}/many_breaks/1", folder)
    assert (folder / "1").read_bytes() == large()
    # More than the tries that a file has which does not grow.
    assert len(cdn.asked["/many_breaks/1"]) > 5


async def test_a_server_that_never_brings_more_than_before_is_given_up(
    cdn: Hostile, time: FakeTime, folder: Path
):
    async with Downloads((), cdn.url, sleep=time.sleep) as downloads, asyncio.timeout(10):
        with pytest.raises(BrokenOutput):
            await save(downloads, f"{cdn.url}/never_whole/1", folder)
    assert len(cdn.asked["/never_whole/1"]) == 5


async def test_a_trickle_is_not_waited_for(
    downloads: Downloads, cdn: Hostile, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download_module, "CHUNK_SECONDS", 0.1)
    with pytest.raises(OutputUnreachable, match="no answer came in time after 0 of"):
        await save(downloads, f"{cdn.url}/trickle/1.png?secret", folder)


async def test_what_does_not_fit_on_the_disk_leaves_nothing_behind(
    downloads: Downloads, folder: Path
):
    uri = f"data:image/png;base64,{base64.b64encode(GOOD).decode()}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses the last bytes, which were still held back.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(GOOD) - 100, before[1]))
    try:
        with pytest.raises(DiskFull, match=f"The disk of {folder} is full"):
            await save(downloads, uri, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["%2e%2e/..%2fevil", "..\\evil", "a" * 300, "图片 🖼", '{}|<>"'])
async def test_a_name_from_outside_is_no_path(
    downloads: Downloads, cdn: Hostile, folder: Path, name: str
):
    await save(downloads, f"{cdn.url}/good/{name}.png", folder)


async def test_a_redirect_to_elsewhere_is_not_followed(
    downloads: Downloads, cdn: Hostile, folder: Path
):
    for location in ("http://localhost:PORT/good/away.png", "file:///etc/passwd", "data:,x"):
        with pytest.raises(RefusedOutput, match=r"/away/.* redirects\."):
            await save(downloads, f"{cdn.url}/away/{location}", folder)
    assert "/good/away.png" not in cdn.asked


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes names lead to the addresses of a list, one after the other."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def lead(*addresses: str) -> list[str]:
        left = list(addresses)

        def answered(host: str | bytes, port: int, *more: Any, **named: Any) -> Any:
            # The HTTP library asks for the name in bytes.
            host = host.decode("ascii") if isinstance(host, bytes) else host
            if host.endswith(".test"):
                asked.append(host)
                host = left.pop(0) if len(left) > 1 else left[0]
            return real(host, port, *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", answered)
        return asked

    return lead


@pytest.fixture
async def listed(time: FakeTime) -> AsyncIterator[Downloads]:
    hosts = ("*.outputs.test", "*.outputs.invalid")
    async with Downloads(hosts, "https://api.test", sleep=time.sleep) as downloads:
        yield downloads


async def test_a_listed_name_that_leads_inside_is_refused_where_it_is_connected_to(
    listed: Downloads, folder: Path, lead: Callable[..., list[str]]
):
    for address in ("127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        asked = lead(address)
        with pytest.raises(RefusedOutput, match="private network"):
            await save(listed, "https://2130706433.outputs.test/1.png?secret", folder)
    assert asked == ["2130706433.outputs.test"] * 5


async def test_a_host_that_the_profile_names_may_lie_inside(
    cdn: Hostile, time: FakeTime, folder: Path
):
    names = ("127.0.0.1", "localhost")
    async with Downloads(names, "https://api.test", sleep=time.sleep) as downloads:
        for host in names:
            await save(downloads, f"http://{host}:{cdn.port}/good/named", folder)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """The same CDN over TLS, with a certificate for 127.0.0.1 that is trusted here."""
    pem = certificate(tmp_path_factory.mktemp("tls"))
    with pytest.MonkeyPatch.context() as patched, hostile_cdn(pem) as hostile:
        patched.setenv("SSL_CERT_FILE", str(pem))
        yield hostile


async def test_over_tls_the_name_is_proved_and_nothing_leads_back_to_http(
    cdn: Hostile, secured: Hostile, time: FakeTime, folder: Path
):
    async with Downloads(("127.0.0.1",), secured.url, sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput, match="from https to http"):
            await save(downloads, f"{secured.url}/away/{cdn.url}/good/1.png", folder)
        await save(downloads, f"{secured.url}/good/1.png", folder)


async def test_a_name_that_leads_inside_only_when_it_is_connected_to_is_sent_nothing(
    secured: Hostile, listed: Downloads, folder: Path, lead: Callable[..., list[str]]
):
    lead("8.8.8.8", "127.0.0.1")
    with pytest.raises(RefusedOutput, match="private network"):
        await save(listed, f"https://cdn.outputs.test:{secured.port}/good/rebound.png", folder)
    assert "/good/rebound.png" not in secured.asked


async def test_a_proxy_is_asked_by_name_with_its_own_password_and_never_for_what_lies_inside(
    cdn: Hostile,
    downloads: Downloads,
    listed: Downloads,
    folder: Path,
    lead: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
):
    lead("10.0.0.7")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, cdn.url.replace("://", "://me:secret@"))
    with pytest.raises(RefusedOutput, match="private network"):
        await save(listed, "https://cdn.outputs.test/1.png", folder)
    with pytest.raises(OutputUnreachable, match="the proxy does not let it through"):
        await save(listed, "https://cdn.outputs.invalid/1.png?secret", folder)
    assert not [path for path in cdn.asked if "outputs.test" in path]
    tunnel = cdn.asked["cdn.outputs.invalid:443"][0]
    assert tunnel.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert "authorization" not in tunnel.headers
    # What is meant for the machine itself does not go out.
    await save(downloads, f"{cdn.url}/good/no-proxy", folder)


DRAWING = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        (f"data:image/png;base64,{base64.b64encode(GOOD).decode()}", GOOD),
        (f"data:image/png;BASE64,{base64.encodebytes(GOOD).decode()}", GOOD),
        ("DATA:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E", DRAWING),
    ],
)
async def test_a_data_uri_is_written_like_any_other_output(
    downloads: Downloads, folder: Path, uri: str, content: bytes
):
    await save(downloads, uri, folder)
    assert (folder / "1").read_bytes() == content


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,AAA",
        "data:image/png;base64,AA==AA==",
        "data:image/png;base64,AA!A",
        "data:image/png;base64,\ud800",
        f"data:image/png;base64,{base64.b64encode(GOOD[:-100]).decode()}",
    ],
)
async def test_a_broken_data_uri_leaves_nothing_behind(
    downloads: Downloads, folder: Path, uri: str
):
    with pytest.raises(BrokenOutput):
        await save(downloads, uri, folder)
