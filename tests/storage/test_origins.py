import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfyline.errors import Unreachable
from comfyline.job import MediaInfo
from comfyline.storage import origins as origins_module
from comfyline.storage import web
from comfyline.storage.file_info import FileInfo, ReadError
from comfyline.storage.known_files import Stamp
from comfyline.storage.origins import Origins
from comfyline.storage.reading import look_at_file
from comfyline.storage.s3 import Bucket
from tests.media.clips import clip, picture

ROOT = Path(__file__).parents[2]
CAT = ROOT / "configs/samples/cat.jpg"
CAT_LOOK = MediaInfo("image/jpeg", 451, 300)
CAT_FACTS = FileInfo(hashlib.sha256(CAT.read_bytes()).hexdigest(), len(CAT.read_bytes()), CAT_LOOK)
Found = tuple[FileInfo | ReadError, Stamp | None]


@pytest.fixture
async def origins() -> AsyncIterator[Origins]:
    async with Bucket(None, None, None) as bucket:
        yield Origins(bucket)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The local files that were read."""
    made: list[str] = []

    def recorded(path: str) -> Found:
        made.append(path)
        return look_at_file(path)

    monkeypatch.setattr(origins_module, "look_at_file", recorded)
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
        assert isinstance(fact, FileInfo)
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
    assert "not a regular file" in str(found["/dev/zero"])


async def test_a_file_that_may_not_be_read_is_an_error(
    origins: Origins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: str) -> Found:
        return PermissionError(13, "Permission denied", path), None

    monkeypatch.setattr(origins_module, "look_at_file", forbidden)

    with pytest.raises(PermissionError):
        await origins.facts("secret.jpg")


async def test_an_object_that_is_not_there_is_a_missing_file(bucket: Bucket, folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        await Origins(bucket).facts(f"{folder}/none.jpg")


async def test_a_file_uri_is_the_path_that_it_names(
    origins: Origins, reads: list[str], tmp_path: Path
) -> None:
    odd = tmp_path / "a #1? é%20.jpg"
    odd.write_bytes(CAT.read_bytes())

    found = await origins.look([odd.as_uri(), str(odd), (tmp_path / "none").as_uri(), "file://[x"])

    assert found[odd.as_uri()] == found[str(odd)] == CAT_FACTS
    assert await origins.facts(odd.as_uri()) == CAT_FACTS
    assert isinstance(found[(tmp_path / "none").as_uri()], FileNotFoundError)
    assert isinstance(found["file://[x"], OSError)
    assert reads.count(str(odd)) == 1


@pytest.mark.parametrize("told", ["file:///made/a%20b.png", "s3://b/a.png", "https://x.test/a.png"])
async def test_what_has_just_been_made_is_not_read_again(origins: Origins, told: str) -> None:
    origins.know(told, CAT_FACTS)

    assert await origins.facts(told) == CAT_FACTS
    assert await origins.look([told]) == {told: CAT_FACTS}


async def test_what_is_made_under_a_path_is_known_by_its_uri(origins: Origins) -> None:
    origins.know("file:///made/a%20b.png", CAT_FACTS)

    assert await origins.facts("/made/a b.png") == CAT_FACTS


async def test_redirects_are_followed(origins: Origins, files: str) -> None:
    assert (await origins.facts(f"{files}/moved.jpg")).media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("page.jpg", "answers with a web page, not with a file"),
        ("secret.jpg", "is not public (HTTP 403)"),
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

    with pytest.raises(Unreachable, match="is larger than"):
        await origins.facts(f"{files}/cat.jpg")


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    shown = web.bare_url("https://me:pass@host:1/a/b@c.png?token=x#y")

    assert shown == "https://host:1/a/b@c.png"


async def test_what_lies_far_away_is_opened_as_well(
    bucket: Bucket, folder: str, tmp_path: Path
) -> None:
    contents = {"a.jpg": picture("JPEG", orientation=6), "b.mp4": clip(), "c.mp4": clip()[:-9]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        await bucket.put(tmp_path / name, f"{folder}/{name}", "binary/octet-stream")

    found = await Origins(bucket).look(f"{folder}/{name}" for name in contents)
    photo, film, broken = [one.look for one in found.values() if isinstance(one, FileInfo)]

    assert photo == MediaInfo("image/jpeg", 48, 64, orientation=6)
    assert (film.width, film.height, film.flaw) == (64, 48, "")
    assert broken.flaw == "is cut short: its header promises more bytes than it has"


async def test_the_copy_of_what_lies_far_away_is_gone_afterwards(
    origins: Origins, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    await origins.look([f"{files}/cat.jpg", f"{files}/none.jpg", f"{files}/page.jpg"])

    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_no_room_for_a_copy_is_said(
    origins: Origins, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", Full)

    with pytest.raises(Unreachable, match=r"No space left on device\. Set TMPDIR"):
        await origins.facts(f"{files}/cat.jpg?secret")


async def test_a_local_file_beyond_every_limit_is_not_read(
    origins: Origins, tmp_path: Path
) -> None:
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        file.write(clip())
        file.truncate(20 << 30)

    assert await origins.facts(str(path)) == FileInfo("", 20 << 30, MediaInfo("video/mp4"))
