import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from comfyline.errors import Unreachable
from comfyline.storage import folder as folder_module
from comfyline.storage.bucket import Bucket
from comfyline.storage.folder import Folder
from comfyline.storage.places import Places


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    path.write_bytes(b"new")
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def everything(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


async def test_a_put_makes_its_folders_and_replaces_what_was_there(
    tmp_path: Path, source: Path
) -> None:
    target = tmp_path / "out/ä b/c#1.png"

    await Folder().put_text("old", target.as_uri(), "text/plain")
    await Folder().put(source, target.as_uri(), "image/png")

    assert target.read_bytes() == b"new"
    assert everything(tmp_path / "out") == ["c#1.png", "ä b"]


async def test_a_put_file_follows_the_umask(tmp_path: Path, source: Path, umask: None) -> None:  # noqa: ARG001
    target = tmp_path / "out/a.png"

    await Folder().put(source, target.as_uri(), "image/png")

    assert stat.S_IMODE(target.stat().st_mode) == 0o640


async def test_a_put_that_fails_midway_leaves_what_was_there(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out/a.png"
    await Folder().put_text("old", target.as_uri(), "text/plain")

    def full(_source: object, file: BinaryIO, _size: int) -> None:
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        await Folder().put(source, target.as_uri(), "image/png")

    assert target.read_bytes() == b"old"
    assert everything(tmp_path / "out") == ["a.png"]


async def test_what_cannot_be_synced_was_not_put(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folder_module.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        await Folder().put(source, (tmp_path / "a.png").as_uri(), "image/png")

    assert everything(tmp_path) == ["source.png"]


async def test_a_folder_in_the_place_of_the_file_is_an_error_and_leaves_nothing(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "out/a.png").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        await Folder().put(source, (tmp_path / "out/a.png").as_uri(), "image/png")

    assert everything(tmp_path / "out") == ["a.png"]


async def test_a_file_in_the_place_of_a_folder_is_an_error(source: Path) -> None:
    with pytest.raises(OSError, match=r"exists|directory"):
        await Folder().put(source, (source / "a.png").as_uri(), "image/png")


async def test_a_missing_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Folder().put(tmp_path / "none", (tmp_path / "out/a.png").as_uri(), "image/png")

    assert everything(tmp_path / "out") == []


async def test_size_is_none_only_for_what_is_no_file(tmp_path: Path, source: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    paths = [source, tmp_path / "none", source / "below", tmp_path / "folder", tmp_path / "nowhere"]

    assert await Folder().sizes([path.as_uri() for path in paths]) == [3, None, None, None, None]


async def test_what_cannot_be_told_is_an_error_and_not_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = (tmp_path / "a.png").as_uri()

    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(Unreachable, match=r"a\.png cannot be read: Permission denied"):
        await Folder().size(uri)


async def test_many_sizes_come_in_the_order_asked(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(1203)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number % 7))
    uris = [path.as_uri() for path in paths]

    sizes = await Places(Bucket(None, None, None)).sizes(uris)

    assert sizes == {uri: number % 7 for number, uri in enumerate(uris)}


async def test_get_copies_or_says_that_there_is_no_file(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "copy"

    await Folder().get(source.as_uri(), target)
    assert target.read_bytes() == b"new"

    for missing in (tmp_path / "none", source / "below", tmp_path):
        with pytest.raises(FileNotFoundError):
            await Folder().get(missing.as_uri(), target)
