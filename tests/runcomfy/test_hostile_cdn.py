"""A hostile CDN, case by case: each ends in a typed error or a good file, and never elsewhere."""

import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyline.errors import BrokenOutput, ComfylineError, OutputUnreachable
from comfyline.job import MediaInfo
from comfyline.media.probe import check_beginning, check_whole
from comfyline.runcomfy.allowed_hosts import RefusedOutput
from comfyline.runcomfy.download import Download, Downloads
from tests.runcomfy.conftest import FakeTime
from tests.runcomfy.hostile import GOOD, LARGE, OTHER, Hostile, hostile_cdn
from tests.runcomfy.tls import certificate

MOST_BYTES = 4_000_000


class Picture:
    """What `fetch` proves where a picture is expected."""

    def begins(self, head: bytes) -> None:
        check_beginning(head, "image")

    def whole(self, path: Path) -> MediaInfo:
        return check_whole(path, "image")


class Clock:
    """Seconds, some of which pass between any two looks."""

    def __init__(self, step: float) -> None:
        self.now, self._step = 0.0, step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


@pytest.fixture(scope="module")
def cdn() -> Iterator[Hostile]:
    with hostile_cdn() as hostile:
        yield hostile


@pytest.fixture
async def downloads(cdn: Hostile, time: FakeTime) -> AsyncIterator[Downloads]:
    async with Downloads((), cdn.url, most_bytes=MOST_BYTES, sleep=time.sleep) as downloads:
        yield downloads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def everything(folder: Path) -> list[str]:
    """All files in and around the folder that a download may write to."""
    around = folder.parent
    return sorted(str(p.relative_to(around)) for p in around.rglob("*") if p.is_file())


async def save(downloads: Downloads, url: str, folder: Path) -> Download:
    """A picture under `1`; whatever happens, nothing else is there afterwards."""
    try:
        download = await downloads.save(url, folder / "1", Picture())
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


GOOD_ENDS: dict[str, tuple[bytes, int]] = {
    # What is stored in the end, and how many requests it takes.
    "good": (GOOD, 1),
    "packed": (GOOD, 1),
    "page_once": (GOOD, 2),
    "resumed": (GOOD, 2),
    "resumed_after_a_reset": (GOOD, 2),
    "resumed_again_and_again": (GOOD, 4),
    "ranges_ignored": (GOOD, 2),
    "no_tag_to_go_on_by": (GOOD, 2),
    "changed_in_between": (OTHER, 2),
    "part_of_another_file": (GOOD, 3),
    "another_part": (GOOD, 3),
    "range_refused": (GOOD, 3),
}


@pytest.mark.parametrize("case", GOOD_ENDS)
async def test_a_good_file_is_had_in_spite_of_everything(
    downloads: Downloads, cdn: Hostile, folder: Path, case: str
):
    content, requests = GOOD_ENDS[case]
    download = await save(downloads, f"{cdn.url}/{case}/1.png?secret", folder)
    assert (folder / "1").read_bytes() == content
    assert download.info.media_type == "image/png"
    assert len(cdn.asked[f"/{case}/1.png?secret"]) == requests


BAD_ENDS: dict[str, tuple[type[ComfylineError], str]] = {
    "truncated": (
        OutputUnreachable,
        r"closed before the answer was complete after [\d,]+ of [\d,]+ bytes",
    ),
    "truncated_without_length": (BrokenOutput, "broken image/png"),
    "endless": (RefusedOutput, "larger than 4000000"),
    "endless_page": (BrokenOutput, "doctype html"),
    "endless_head": (OutputUnreachable, "closed before the answer was complete"),
    "empty": (BrokenOutput, "is empty"),
    "page": (BrokenOutput, "doctype html"),
    "json": (BrokenOutput, "error_code"),
    "video": (BrokenOutput, "video/mp4, but the model makes image"),
    "png_bomb": (BrokenOutput, "more pixels than"),
    "packed_and_cut": (BrokenOutput, "broken image/png"),
    "gzip_bomb": (RefusedOutput, "larger than 4000000"),
    "length_too_short": (BrokenOutput, "broken image/png"),
    "length_too_long": (
        OutputUnreachable,
        r"closed before the answer was complete after [\d,]+ of [\d,]+ bytes",
    ),
    "length_beyond_the_limit": (RefusedOutput, "larger than 4000000"),
    "part_nobody_asked_for": (BrokenOutput, "not requested"),
    "no_http": (OutputUnreachable, "closed before the answer was complete"),
    "loop": (RefusedOutput, "more than 3 times"),
}


@pytest.mark.parametrize("case", BAD_ENDS)
async def test_what_is_bad_for_good_ends_in_words(
    downloads: Downloads, cdn: Hostile, folder: Path, case: str
):
    kind, words = BAD_ENDS[case]
    with pytest.raises(kind, match=words):
        await save(downloads, f"{cdn.url}/{case}/1.png?secret", folder)


async def test_a_large_file_is_had_from_a_server_that_breaks_off_again_and_again(
    cdn: Hostile, time: FakeTime, folder: Path
):
    async with Downloads((), cdn.url, sleep=time.sleep) as downloads:
        await downloads.save(f"{cdn.url}/many_breaks/1", folder / "1")
    assert (folder / "1").read_bytes() == LARGE
    # More than the tries that a file has which does not grow.
    assert len(cdn.asked["/many_breaks/1"]) > 5


async def test_the_rest_is_asked_for_with_the_mark_of_the_file(
    downloads: Downloads, cdn: Hostile, folder: Path
):
    await save(downloads, f"{cdn.url}/resumed/marked", folder)
    first, second = cdn.asked["/resumed/marked"]
    assert "range" not in first.headers
    assert (second.headers["range"], second.headers["if-range"]) == (
        f"bytes={len(GOOD) // 2}-",
        '"one"',
    )


async def test_a_trickle_ends_when_its_grace_is_over(cdn: Hostile, time: FakeTime, folder: Path):
    url = f"{cdn.url}/trickle/1.png?secret"
    async with Downloads((), cdn.url, sleep=time.sleep, clock=Clock(step=400)) as downloads:
        with pytest.raises(OutputUnreachable, match="too slow"):
            await save(downloads, url, folder)
    assert len(cdn.asked["/trickle/1.png?secret"]) == 1
    async with Downloads((), cdn.url, sleep=time.sleep, clock=Clock(step=0.01)) as downloads:
        await save(downloads, url, folder)


@pytest.mark.parametrize("hops", [1, 3])
async def test_a_few_redirects_within_the_list_are_followed(
    downloads: Downloads, cdn: Hostile, folder: Path, hops: int
):
    await save(downloads, f"{cdn.url}/hop/{hops}/1.png", folder)


async def test_four_redirects_are_too_many(downloads: Downloads, cdn: Hostile, folder: Path):
    with pytest.raises(RefusedOutput, match="more than 3 times"):
        await save(downloads, f"{cdn.url}/hop/4/1.png", folder)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://127.0.0.1:1/",
        "http://localhost:PORT/good/1.png",
        "http://[::1]:PORT/good/1.png",
        "http://[::ffff:127.0.0.1]:PORT/good/1.png",
        "http://2130706433:PORT/good/1.png",
        "http://0x7f.1:PORT/good/1.png",
        "http://0177.0.0.1:PORT/good/1.png",
        "http://127.1:PORT/good/1.png",
        "http://user:pw@127.0.0.1:PORT/good/1.png",
        "http://127.0.0.1:PORT@evil.test/",
        "http://127.0.0.1:99999/",
        "//evil.test/good/1.png",
        "https://evil.test/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:text/plain,x",
        "http://[",
    ],
)
async def test_a_redirect_to_elsewhere_is_not_followed(
    downloads: Downloads, cdn: Hostile, folder: Path, location: str
):
    with pytest.raises(RefusedOutput):
        await save(downloads, f"{cdn.url}/away/{location}", folder)
    assert "/good/1.png" not in cdn.asked


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2f..%2fevil.png",
        "%2e%2e/%2e%2e/evil.png",
        "..\\..\\evil.png",
        "%00.png",
        "\0.png",
        "a" * 300 + ".png",
        "картина 图片 🖼.png",
        "/etc/passwd",
        "con.png:stream",
        '{}[]^`|<>".png',
    ],
)
async def test_a_name_from_outside_is_no_path(
    downloads: Downloads, cdn: Hostile, folder: Path, name: str
):
    await save(downloads, f"{cdn.url}/good/{name}", folder)


async def test_what_a_server_would_remember_is_not_sent_back(
    downloads: Downloads, cdn: Hostile, folder: Path
):
    for _ in range(2):
        await save(downloads, f"{cdn.url}/good/cookies", folder)
    first, second = cdn.asked["/good/cookies"]
    assert first.headers == second.headers
    assert not {"cookie", "authorization", "referer"} & set(second.headers)


LEADS_INSIDE = ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Any:
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


@pytest.mark.parametrize("address", LEADS_INSIDE)
@pytest.mark.parametrize("host", ["cdn.outputs.test", "2130706433.outputs.test"])
async def test_a_listed_name_that_leads_inside_is_refused_where_it_is_connected_to(
    time: FakeTime, folder: Path, lead: Any, host: str, address: str
):
    asked = lead(address)
    async with Downloads(("*.outputs.test",), "https://api.test", sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput, match="private network"):
            await save(downloads, f"https://{host}/1.png?secret", folder)
    assert asked == [host]


@pytest.mark.parametrize(
    "form", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1", "[::1]"]
)
async def test_no_pattern_makes_an_address_inside_a_host(time: FakeTime, folder: Path, form: str):
    async with Downloads(("*",), "https://api.test", sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput):
            await save(downloads, f"https://{form}/1.png", folder)


async def test_a_host_that_the_profile_names_may_lie_inside(
    cdn: Hostile, time: FakeTime, folder: Path
):
    other = (f"127.0.0.1:{cdn.port + 1}",)
    async with Downloads(other, "https://api.test", sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput, match="does not allow"):
            await save(downloads, f"{cdn.url}/good/named", folder)
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
    secured: Hostile, time: FakeTime, folder: Path, lead: Any
):
    lead("8.8.8.8", "127.0.0.1")
    url = f"https://cdn.outputs.test:{secured.port}/good/rebound.png"
    async with Downloads(("*.outputs.test",), "https://api.test", sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput, match="private network"):
            await save(downloads, url, folder)
    assert "/good/rebound.png" not in secured.asked


async def test_a_proxy_is_never_asked_for_what_leads_inside(
    cdn: Hostile, time: FakeTime, folder: Path, lead: Any, monkeypatch: pytest.MonkeyPatch
):
    lead("10.0.0.7")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, cdn.url)
    async with Downloads(("*.outputs.test",), cdn.url, sleep=time.sleep) as downloads:
        with pytest.raises(RefusedOutput, match="private network"):
            await save(downloads, "https://cdn.outputs.test/1.png", folder)
        # What is meant for the machine itself does not go out.
        await save(downloads, f"{cdn.url}/good/no-proxy", folder)
    assert not [path for path in cdn.asked if "outputs.test" in path]


async def test_where_there_is_a_proxy_it_is_asked_by_name_and_with_its_own_password_only(
    cdn: Hostile, time: FakeTime, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("https_proxy", cdn.url.replace("://", "://me:secret@"))
    async with Downloads(("*.invalid",), "https://api.test", sleep=time.sleep) as downloads:
        with pytest.raises(OutputUnreachable, match="the proxy does not let it through"):
            await save(downloads, "https://cdn.invalid/1.png?secret", folder)
    tunnel = cdn.asked["cdn.invalid:443"][0]
    assert tunnel.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert "authorization" not in tunnel.headers
