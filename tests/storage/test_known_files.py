"""What is remembered of local files: never wrong, and never in the way."""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.job import MediaInfo
from comfyline.storage import known_files as known_files_module
from comfyline.storage import origins as origins_module
from comfyline.storage.file_info import FileInfo
from comfyline.storage.known_files import KnownFiles, Stamp
from comfyline.storage.origins import Origins
from comfyline.storage.reading import look_at_file
from comfyline.storage.s3 import Bucket
from tests.media.clips import picture

Start = Callable[[], Origins]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "known-files.sqlite3"


@pytest.fixture
async def start(memory: Path) -> AsyncIterator[Start]:
    """Begins anew, as another process would."""
    async with Bucket(None, None, None) as bucket:
        yield lambda: Origins(bucket, memory)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the local files that were read; each counts as left untouched for a while."""
    made: list[str] = []

    def recorded(path: str) -> object:
        made.append(Path(path).name)
        return look_at_file(path)

    monkeypatch.setattr(origins_module, "look_at_file", recorded)
    monkeypatch.setattr(known_files_module, "_SETTLED", -60.0)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(picture("JPEG", (40 + number, 40)))
    return list(map(str, paths))


async def test_what_has_not_changed_is_read_once_for_all_processes(
    start: Start, reads: list[str], photos: list[str]
) -> None:
    first = await start().look(photos)
    second = await start().look(photos)

    assert first == second
    assert sorted(reads) == [f"{number}.jpg" for number in range(5)]


async def test_a_relative_path_and_a_name_that_is_no_text_are_known_as_well(
    start: Start, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / odd).write_bytes(picture("JPEG"))

    await start().look([odd])
    await start().look([str(tmp_path / odd)])

    assert reads == [odd]


@pytest.mark.parametrize("change", ["content", "same time", "replaced", "link"])
async def test_what_has_changed_is_read_again(
    start: Start, reads: list[str], tmp_path: Path, change: str
) -> None:
    path, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    path.write_bytes(picture("BMP", (40, 40)))
    other.write_bytes(picture("BMP", (40, 40), orientation=3)[:-1] + b"\1")
    before = path.stat()
    await start().facts(str(path))

    if change in {"content", "same time"}:
        path.write_bytes(other.read_bytes())
    elif change == "replaced":
        other.replace(path)
    else:
        path.unlink()
        path.symlink_to(other)
    if change == "same time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = await start().facts(str(path))

    assert path.stat().st_size == before.st_size
    assert found.sha256 == (await start().facts(str(path))).sha256
    assert reads[:2] == ["a.jpg", "a.jpg"]


async def test_a_file_that_was_just_written_is_not_trusted(
    start: Start, photos: list[str], memory: Path
) -> None:
    """It may be written again in the same tick of the clock, and look the same afterwards."""
    await start().look(photos)

    assert KnownFiles(memory).recall(photos) == {}


@given(age=st.floats(-1e6, 1e6), changed_later=st.floats(0, 1e6))
def test_a_stamp_settles_two_seconds_after_the_last_change(
    age: float, changed_later: float
) -> None:
    now = 1_700_000_000.0
    modified = int((now - age) * 1e9)
    stamp = Stamp(1, modified, modified + int(changed_later * 1e9), 7)

    assert stamp.is_settled(now) == (max(stamp.modified, stamp.changed) < (now - 2) * 1e9)


async def test_a_file_that_is_written_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files_module, "_SETTLED", -60.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("JPEG"))
    assert look_at_file(str(path))[1] is not None

    def probe(*_: object) -> MediaInfo:
        with path.open("ab") as file:
            file.write(b"more")
        return MediaInfo("image/jpeg")

    monkeypatch.setattr("comfyline.storage.reading.probe", probe)

    assert look_at_file(str(path))[1] is None


async def test_another_judge_judges_again(
    start: Start, reads: list[str], photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await start().look(photos[:1])
    monkeypatch.setattr(known_files_module, "probed_by", lambda: "2")
    await start().look(photos[:1])

    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["noise", "empty", "other table", "odd rows", "folder"])
async def test_a_broken_memory_is_no_error_and_heals_where_it_can(
    start: Start, reads: list[str], photos: list[str], memory: Path, damage: str
) -> None:
    await start().look(photos)
    reads.clear()
    _damage(memory, damage)

    for _ in range(2):
        found = await start().look(photos)
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
    monkeypatch.setattr(known_files_module, "_PATIENCE", 0.01)
    await start().look(photos[:1])
    connection = sqlite3.connect(memory)
    connection.execute("BEGIN EXCLUSIVE")

    found = await start().look(photos)

    assert all(isinstance(one, FileInfo) for one in found.values())
    connection.rollback()
    connection.close()


async def test_a_home_that_is_not_there_is_not_made(photos: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    stamp = Stamp(1, 1, 1, 1)

    KnownFiles(home / "known.sqlite3").remember(
        {photos[0]: (stamp, FileInfo("a", 1, MediaInfo("")))}
    )

    assert not home.exists()


async def test_many_processes_remember_at_once(memory: Path, tmp_path: Path) -> None:
    """Each through a connection of its own; who does not get in goes on without."""
    files = []
    for number in range(40):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x")
        files.append(str(path))

    def remember(path: str) -> None:
        stamp = Stamp.of(Path(path).stat())
        KnownFiles(memory).remember({path: (stamp, FileInfo(path, 1, MediaInfo("image/png")))})

    await asyncio.gather(*(asyncio.to_thread(remember, path) for path in files))

    known = KnownFiles(memory).recall(files)
    assert known
    assert all(facts.sha256 == path for path, facts in known.items())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    look=st.builds(
        MediaInfo,
        st.text(max_size=9),
        st.none() | st.integers(0, 10**9),
        st.none() | st.integers(0, 10**9),
        st.none() | st.floats(0, 1e9),
        st.none() | st.floats(0, 1e9),
        st.integers(1, 8),
        st.text(max_size=30),
    ),
    size=st.integers(0, 2**62),
)
def test_facts_come_back_as_they_were(tmp_path: Path, look: MediaInfo, size: int) -> None:
    path, facts = tmp_path / "a", FileInfo("ab" * 32, size, look)
    path.write_bytes(b"x")
    memory = KnownFiles(tmp_path / "known.sqlite3")

    memory.remember({str(path): (Stamp.of(path.stat()), facts)})

    assert memory.recall([str(path), "b\0c", "", "none"]) == {str(path): facts}


def test_an_old_file_is_settled(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("JPEG"))
    stamp = Stamp.of(path.stat())

    assert not stamp.is_settled(time.time())
    assert stamp.is_settled(time.time() + 60)
