"""What is remembered of files and objects: never wrong, and never in the way."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.job import FileInfo, MediaInfo
from comfyline.storage import fingerprints as fingerprints_module
from comfyline.storage import inputs as inputs_module
from comfyline.storage.fingerprints import KnownFiles, fingerprints_of, is_settled
from comfyline.storage.inputs import Inputs, read_file
from comfyline.storage.place import Listed
from comfyline.storage.s3 import Bucket
from tests.media.clips import picture
from tests.storage.faults import Proxy

Start = Callable[[], Inputs]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "known-files.sqlite3"


@pytest.fixture
def start(bucket: Bucket, memory: Path) -> Start:
    """Begins anew, as another process would."""
    return lambda: Inputs(bucket, memory)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the local files that were read; each counts as left untouched for a while."""
    made: list[str] = []

    def recorded(path: str) -> object:
        made.append(Path(path).name)
        return read_file(path)

    monkeypatch.setattr(inputs_module, "read_file", recorded)
    monkeypatch.setattr(fingerprints_module, "SETTLED", -60.0)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(picture("JPEG", (40 + number, 40)))
    return list(map(str, paths))


async def test_what_has_not_changed_is_read_once_for_all_processes(
    start: Start,
    reads: list[str],
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes(picture("JPEG"))

    first = await start().read_all([*photos, str(odd)])
    monkeypatch.chdir(tmp_path)
    second = await start().read_all([Path(path).name for path in first])

    assert list(first.values()) == list(second.values())
    assert len(reads) == 6


@pytest.mark.parametrize("change", ["content", "same time", "replaced", "link"])
async def test_what_has_changed_is_read_again(
    start: Start, reads: list[str], tmp_path: Path, change: str
) -> None:
    path, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    path.write_bytes(picture("BMP", (40, 40)))
    other.write_bytes(picture("BMP", (40, 40), orientation=3)[:-1] + b"\1")
    before = path.stat()
    await start().read(str(path))

    if change in {"content", "same time"}:
        path.write_bytes(other.read_bytes())
    elif change == "replaced":
        other.replace(path)
    else:
        path.unlink()
        path.symlink_to(other)
    if change == "same time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = await start().read(str(path))

    assert path.stat().st_size == before.st_size
    assert found.sha256 == (await start().read(str(path))).sha256
    assert reads[:2] == ["a.jpg", "a.jpg"]


async def test_a_file_that_was_just_written_is_not_trusted(
    start: Start, photos: list[str], memory: Path
) -> None:
    """It may be written again in the same tick of the clock, and look the same afterwards."""
    await start().read_all(photos)

    assert KnownFiles(memory).recall(fingerprints_of(photos)) == {}


@given(age=st.floats(-1e6, 1e6), changed_later=st.floats(0, 1e6))
def test_a_file_settles_two_seconds_after_its_last_change(age: float, changed_later: float) -> None:
    class Found:
        st_mtime_ns = int((1_700_000_000.0 - age) * 1e9)
        st_ctime_ns = st_mtime_ns + int(changed_later * 1e9)

    settled = Found.st_ctime_ns < (1_700_000_000.0 - 2) * 1e9
    assert is_settled(Found(), 1_700_000_000.0) == settled  # type: ignore[arg-type]


async def test_a_file_that_is_written_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints_module, "SETTLED", -60.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("JPEG"))
    assert read_file(str(path))[1]

    def probe(*_: object) -> MediaInfo:
        with path.open("ab") as file:
            file.write(b"more")
        return MediaInfo("image/jpeg")

    monkeypatch.setattr(inputs_module, "probe", probe)

    assert not read_file(str(path))[1]


async def test_another_judge_judges_again(
    start: Start, reads: list[str], photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await start().read_all(photos[:1])
    monkeypatch.setattr(fingerprints_module, "probed_by", lambda: "2")
    await start().read_all(photos[:1])

    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["noise", "empty", "other table", "odd rows", "folder"])
async def test_a_broken_memory_is_no_error_and_heals_where_it_can(
    start: Start, reads: list[str], photos: list[str], memory: Path, damage: str
) -> None:
    await start().read_all(photos)
    reads.clear()
    _damage(memory, damage)

    for _ in range(2):
        found = await start().read_all(photos)
        assert all(isinstance(one, FileInfo) for one in found.values())

    assert len(reads) == (10 if damage in {"folder", "other table"} else 5)


def _damage(memory: Path, damage: str) -> None:
    if damage in {"noise", "empty", "folder"}:
        memory.unlink()
    if damage == "noise":
        memory.write_bytes(b"no database" * 1000)
    elif damage == "empty":
        memory.touch()
    elif damage == "folder":
        memory.mkdir()
    else:
        with sqlite3.connect(memory) as connection:
            if damage == "odd rows":
                connection.execute("UPDATE known_files SET facts = '[1]'")
            else:
                connection.execute("DROP TABLE known_files")
                connection.execute("CREATE TABLE known_files (x)")
        connection.close()


@pytest.mark.usefixtures("reads")
async def test_a_locked_memory_is_gone_without(
    start: Start, photos: list[str], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints_module, "_PATIENCE", 0.01)
    await start().read_all(photos[:1])
    connection = sqlite3.connect(memory)
    connection.execute("BEGIN EXCLUSIVE")

    found = await start().read_all(photos)

    assert all(isinstance(one, FileInfo) for one in found.values())
    connection.rollback()
    connection.close()


async def test_many_processes_remember_at_once_and_a_missing_home_is_not_made(
    memory: Path, tmp_path: Path
) -> None:
    """Each through a connection of its own; who does not get in goes on without."""

    def remember(name: str, file: Path) -> None:
        KnownFiles(file).remember({name: (name, FileInfo(name, 1, MediaInfo("image/png")))})

    names = [f"/{number}" for number in range(40)]
    await asyncio.gather(*(asyncio.to_thread(remember, name, memory) for name in names))
    remember("/a", tmp_path / "home/known.sqlite3")

    known = KnownFiles(memory).recall({name: name for name in names})
    assert known
    assert all(info.sha256 == name for name, info in known.items())
    assert not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> KnownFiles:
    return KnownFiles(tmp_path_factory.mktemp("memory") / "known.sqlite3")


@given(
    info=st.builds(
        FileInfo,
        st.just("ab" * 32),
        st.integers(0, 2**62),
        st.builds(
            MediaInfo,
            st.text(max_size=9),
            st.none() | st.integers(0, 10**9),
            st.none() | st.integers(0, 10**9),
            st.none() | st.floats(0, 1e9),
            st.none() | st.floats(0, 1e9),
            st.integers(1, 8),
            st.text(max_size=30),
        ),
    ),
)
def test_what_is_remembered_comes_back_as_it_was(shared: KnownFiles, info: FileInfo) -> None:
    shared.remember({"s3://b/a": ("1 etag 2", info)})

    same = {"s3://b/a": "1 etag 2", "/none": "1"}
    assert shared.recall(same) == {"s3://b/a": info}
    assert shared.recall({"s3://b/a": "1 other 2"}) == {}


@pytest.fixture
async def objects(bucket: Bucket, folder: str, tmp_path: Path) -> list[str]:
    return [await put(bucket, folder, number, 40 + number, tmp_path) for number in range(6)]


async def put(bucket: Bucket, folder: str, number: int, width: int, tmp_path: Path) -> str:
    path = tmp_path / "picture.jpg"
    path.write_bytes(picture("JPEG", (width, 40)))
    await bucket.put(path, f"{folder}/{number}.jpg", "image/jpeg")
    return f"{folder}/{number}.jpg"


async def test_an_object_that_has_not_changed_is_downloaded_once_for_all_processes(
    bucket: Bucket,
    wired: Bucket,
    objects: list[str],
    folder: str,
    wire: Proxy,
    memory: Path,
    tmp_path: Path,
) -> None:
    first = await Inputs(wired, memory).read_all(objects)
    assert wire.asked().count("GET") == 6
    wire.requests.clear()

    assert await Inputs(wired, memory).read_all(objects) == first
    assert wire.asked() == ["LIST"]
    assert (await Inputs(wired, memory).read(objects[0])).info.width == 40
    assert wire.asked() == ["LIST", "HEAD"]

    await put(bucket, folder, 3, 90, tmp_path)
    wire.requests.clear()
    changed = (await Inputs(wired, memory).read_all(objects))[objects[3]]
    assert wire.asked().count("GET") == 1
    assert isinstance(changed, FileInfo)
    assert changed.info == MediaInfo("image/jpeg", 90, 40)


async def test_an_object_that_changes_while_it_is_read_is_not_remembered(
    bucket: Bucket,
    start: Start,
    objects: list[str],
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stat, asked = bucket.stat, []

    async def changed_between(uri: str) -> Listed | None:
        asked.append(uri)
        if len(asked) == 2:
            await put(bucket, folder, 0, 77, tmp_path)
        return await stat(uri)

    with monkeypatch.context() as patched:
        patched.setattr(bucket, "stat", changed_between)
        await start().read(objects[0])

    assert len(asked) == 2
    assert (await start().read(objects[0])).info.width == 77
