import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import Unreachable
from comfyline.job import FileInfo, MediaInfo
from comfyline.storage import inputs as inputs_module
from comfyline.storage.inputs import Inputs, read_file
from comfyline.storage.s3 import Bucket
from tests.conftest import ROOT
from tests.media.clips import clip, picture

CAT = ROOT / "configs/samples/cat.jpg"
CAT_INFO = FileInfo(
    hashlib.sha256(CAT.read_bytes()).hexdigest(),
    len(CAT.read_bytes()),
    MediaInfo("image/jpeg", 451, 300),
)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(Bucket(NO_STORAGE))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The local files that were read."""
    made: list[str] = []

    def recorded(path: str) -> tuple[FileInfo, str]:
        made.append(path)
        return read_file(path)

    monkeypatch.setattr(inputs_module, "read_file", recorded)
    return made


async def test_an_input_is_the_same_wherever_its_bytes_lie(
    bucket: Bucket, folder: str, files: str
) -> None:
    await bucket.put(CAT, f"{folder}/a b.jpg", "binary/octet-stream")
    addresses = [str(CAT), f"{folder}/a b.jpg", f"{files}/cat.jpg?token=x"]

    assert await Inputs(bucket).read_all(addresses) == dict.fromkeys(addresses, CAT_INFO)


async def test_each_address_is_read_once_however_many_ask(inputs: Inputs, reads: list[str]) -> None:
    found = await asyncio.gather(*(inputs.read(str(CAT)) for _ in range(20)))
    again = await inputs.read_all([str(CAT), CAT.as_uri()])

    assert [*found, *again.values()] == [CAT_INFO] * 22
    assert reads == [str(CAT)]


async def test_what_is_not_there_is_told_to_all_who_ask_at_once(
    inputs: Inputs, tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone.jpg")

    found = await asyncio.gather(*(inputs.read_all([gone]) for _ in range(50)))

    assert {type(one[gone]) for one in found} == {FileNotFoundError}


async def test_who_is_cancelled_does_not_cancel_what_others_wait_for(inputs: Inputs) -> None:
    first = asyncio.create_task(inputs.read(str(CAT)))
    second = asyncio.create_task(inputs.read(str(CAT)))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == CAT_INFO
    assert first.cancelled() or await asyncio.wait([first])


async def test_many_files_are_read_as_well_as_one_and_one_that_appears_later_is_found(
    inputs: Inputs, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}" for number in range(150)]
    for path in paths[1:]:
        path.write_text(path.name)
    found = await inputs.read_all(map(str, paths))
    paths[0].write_bytes(CAT.read_bytes())

    assert list(found) == [str(path) for path in paths]
    assert isinstance(found[str(paths[0])], FileNotFoundError)
    for path in paths[1:]:
        info = found[str(path)]
        assert isinstance(info, FileInfo)
        assert info.sha256 == hashlib.sha256(path.name.encode()).hexdigest()
    assert await inputs.read(str(paths[0])) == CAT_INFO


async def test_what_is_no_ordinary_file_is_an_error_and_never_hangs(
    inputs: Inputs, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        bad = ["pipe", "link", "circle", "socket", "", "x" * 300]
        addresses = [str(tmp_path / name) for name in bad] + ["/dev/zero", "a\0b", "file://[x"]

        async with asyncio.timeout(5):
            found = await inputs.read_all(addresses)

    assert [type(one) for one in found.values() if not isinstance(one, OSError)] == []
    assert isinstance(found[str(tmp_path / "link")], FileNotFoundError)
    assert isinstance(found[str(tmp_path)], IsADirectoryError)
    assert "not a regular file" in str(found["/dev/zero"])


async def test_a_file_uri_is_the_path_that_it_names(
    inputs: Inputs, reads: list[str], tmp_path: Path
) -> None:
    odd = tmp_path / "a #1? é%20.jpg"
    odd.write_bytes(CAT.read_bytes())

    found = await inputs.read_all([odd.as_uri(), str(odd), (tmp_path / "none").as_uri()])

    assert found[odd.as_uri()] == found[str(odd)] == CAT_INFO
    assert isinstance(found[(tmp_path / "none").as_uri()], FileNotFoundError)
    assert reads.count(str(odd)) == 1


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("file:///made/a%20b.png", "/made/a b.png"),
        ("s3://b/a.png", "s3://b/a.png"),
        ("https://x.test/a.png", "https://x.test/a.png"),
    ],
)
async def test_what_has_just_been_made_is_not_read_again(
    inputs: Inputs, told: str, asked: str
) -> None:
    inputs.know(told, CAT_INFO)

    assert await inputs.read(asked) == CAT_INFO
    assert await inputs.read_all([told]) == {told: CAT_INFO}


@pytest.mark.parametrize(
    ("page", "error", "said"),
    [
        ("page.jpg", Unreachable, "answers with a web page, not with a file"),
        ("secret.jpg", Unreachable, "is not public (HTTP 403)"),
        ("circle.jpg", Unreachable, "is redirected more than 3 times"),
        ("none.jpg", FileNotFoundError, "answers HTTP 404"),
    ],
)
async def test_what_the_web_does_not_give_is_said_without_the_query(
    inputs: Inputs, files: str, page: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        await inputs.read(f"{files}/{page}?X-Amz-Signature=secret#secret")

    assert f"{files}/{page} {said}" in str(caught.value)
    assert "secret" not in str(caught.value).replace("secret.jpg", "")


async def test_what_is_not_there_or_no_address_is_said_and_redirects_are_followed(
    inputs: Inputs, bucket: Bucket, folder: str, files: str
) -> None:
    assert (await inputs.read(f"{files}/moved.jpg")).media_type == "image/jpeg"
    with pytest.raises(FileNotFoundError):
        await Inputs(bucket).read(f"{folder}/none.jpg")
    for url in ("http://127.0.0.1:9/a.jpg?secret", "http://me:secret@127.0.0.1:9/", "https://[x/"):
        with pytest.raises(Unreachable) as caught:
            await inputs.read(url)
        assert "secret" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(Unreachable, match="does not answer in time"):
        await inputs.read(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


async def test_what_lies_far_away_is_opened_and_its_copy_is_gone_afterwards(
    bucket: Bucket, folder: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"a.jpg": picture("JPEG", orientation=6), "b.mp4": clip(), "c.mp4": clip()[:-9]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        await bucket.put(tmp_path / name, f"{folder}/{name}", "binary/octet-stream")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    found = await Inputs(bucket).read_all([*(f"{folder}/{name}" for name in contents), files])
    photo, film, broken = [one.info for one in found.values() if isinstance(one, FileInfo)]

    assert photo == MediaInfo("image/jpeg", 48, 64, orientation=6)
    assert (film.width, film.height, film.flaw) == (64, 48, "")
    assert broken.flaw == "is cut short: its header promises more bytes than it has"
    assert list((tmp_path / "temporary").iterdir()) == []


async def test_no_room_for_a_copy_is_said(
    inputs: Inputs, files: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "w+b", buffering=0))  # noqa: PTH123, SIM115

    with pytest.raises(Unreachable, match=r"No space left on device\. Set TMPDIR"):
        await inputs.read(f"{files}/cat.jpg?secret")


async def test_of_what_is_beyond_every_limit_only_the_beginning_is_read(
    bucket: Bucket, folder: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "film.mp4").open("wb") as file:
        file.write(clip())
        file.truncate(20 << 30)
    assert await Inputs(bucket).read(str(tmp_path / "film.mp4")) == FileInfo(
        "", 20 << 30, MediaInfo("video/mp4")
    )

    monkeypatch.setattr(inputs_module, "LARGEST", 1000)
    await bucket.put(CAT, f"{folder}/cat.jpg", "image/jpeg")
    size = CAT_INFO.bytes
    assert await Inputs(bucket).read(f"{folder}/cat.jpg") == FileInfo(
        "", size, MediaInfo("image/jpeg")
    )
    web = await Inputs(bucket).read(f"{files}/cat.jpg")
    assert (web.sha256, web.media_type) == ("", "image/jpeg")
    assert web.bytes > 1000
