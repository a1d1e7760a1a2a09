import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfyline.errors import Unreachable
from comfyline.storage import origins as origins_module
from comfyline.storage import web
from comfyline.storage.bucket import Bucket
from comfyline.storage.origins import Facts, Origins, read_file

ROOT = Path(__file__).parents[2]
CAT = ROOT / "configs/samples/cat.jpg"
CAT_FACTS = Facts(hashlib.sha256(CAT.read_bytes()).hexdigest(), len(CAT.read_bytes()), "image/jpeg")


@pytest.fixture
async def origins() -> AsyncIterator[Origins]:
    async with Bucket(None, None, None) as bucket:
        yield Origins(bucket)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The local files that were read."""
    made: list[str] = []

    def recorded(path: Path) -> Facts:
        made.append(str(path))
        return read_file(path)

    monkeypatch.setattr(origins_module, "read_file", recorded)
    return made


async def test_the_facts_are_the_same_wherever_the_bytes_lie(
    bucket: Bucket, folder: str, files: str
) -> None:
    await bucket.put(CAT, f"{folder}/a b.jpg", "image/jpeg")
    addresses = [str(CAT), f"{folder}/a b.jpg", f"{files}/cat.jpg?token=x"]

    assert await Origins(bucket).look(addresses) == dict.fromkeys(addresses, CAT_FACTS)


async def test_each_address_is_read_once_however_many_ask(
    origins: Origins, reads: list[str]
) -> None:
    found = await asyncio.gather(*(origins.facts(str(CAT)) for _ in range(20)))
    again = await origins.look([str(CAT), str(CAT)])

    assert [*found, *again.values()] == [CAT_FACTS] * 21
    assert reads == [str(CAT)]


async def test_who_is_cancelled_does_not_cancel_what_others_wait_for(origins: Origins) -> None:
    first = asyncio.create_task(origins.facts(str(CAT)))
    second = asyncio.create_task(origins.facts(str(CAT)))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == CAT_FACTS
    assert first.cancelled() or await asyncio.wait([first])


async def test_a_file_that_appears_later_is_found(origins: Origins, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(FileNotFoundError):
        await origins.facts(str(path))

    path.write_bytes(CAT.read_bytes())

    assert await origins.facts(str(path)) == CAT_FACTS


async def test_many_files_are_read_as_well_as_one(origins: Origins, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(150)]
    for path in paths[1:]:
        path.write_text(path.name)

    found = await origins.look(map(str, paths))

    assert list(found) == [str(path) for path in paths]
    assert isinstance(found[str(paths[0])], FileNotFoundError)
    for path in paths[1:]:
        fact = found[str(path)]
        assert isinstance(fact, Facts)
        assert fact.sha256 == hashlib.sha256(path.name.encode()).hexdigest()


async def test_what_is_no_ordinary_file_is_an_error_and_never_hangs(
    origins: Origins, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        bad = ["pipe", "link", "circle", "socket", "", "x" * 300]
        addresses = [str(tmp_path / name) for name in bad] + ["/dev/zero", "a\0b"]

        async with asyncio.timeout(5):
            found = await origins.look(addresses)

    assert [type(one) for one in found.values() if not isinstance(one, OSError)] == []
    assert isinstance(found[str(tmp_path / "link")], FileNotFoundError)
    assert isinstance(found[str(tmp_path)], IsADirectoryError)
    assert "no ordinary file" in str(found["/dev/zero"])


async def test_a_file_that_may_not_be_read_is_an_error(
    origins: Origins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> Facts:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(origins_module, "read_file", forbidden)

    with pytest.raises(PermissionError):
        await origins.facts("secret.jpg")


async def test_an_object_that_is_not_there_is_a_missing_file(bucket: Bucket, folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        await Origins(bucket).facts(f"{folder}/none.jpg")


async def test_redirects_are_followed(origins: Origins, files: str) -> None:
    assert (await origins.facts(f"{files}/moved.jpg")).media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("page.jpg", "answers with a web page, not with a file"),
        ("secret.jpg", "is not given to everyone (HTTP 403)"),
        ("circle.jpg", "is redirected more than 3 times"),
    ],
)
async def test_what_the_web_does_not_give_is_said_without_the_query(
    origins: Origins, files: str, page: str, said: str
) -> None:
    with pytest.raises(Unreachable) as caught:
        await origins.facts(f"{files}/{page}?X-Amz-Signature=secret#secret")

    assert said in str(caught.value)
    assert f"{files}/{page}" in str(caught.value)
    assert "secret" not in str(caught.value).replace("secret.jpg", "")


async def test_a_page_that_is_not_there_is_a_missing_file(origins: Origins, files: str) -> None:
    with pytest.raises(FileNotFoundError, match="answers HTTP 404"):
        await origins.facts(f"{files}/none.jpg?X-Amz-Signature=secret")


async def test_an_address_without_a_server_is_said(origins: Origins) -> None:
    for url in ("http://127.0.0.1:9/a.jpg?secret", "http://me:secret@127.0.0.1:9/", "https://[x/"):
        with pytest.raises(Unreachable) as caught:
            await origins.facts(url)
        assert "secret" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(
    origins: Origins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(Unreachable, match="does not answer in time"):
        await origins.facts(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


async def test_an_endless_answer_ends(
    origins: Origins, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_MOST_BYTES", 1000)

    with pytest.raises(Unreachable, match="has more than"):
        await origins.facts(f"{files}/cat.jpg")


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    shown = web.bare_url("https://me:pass@host:1/a/b@c.png?token=x#y")

    assert shown == "https://host:1/a/b@c.png"
