import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import Altered, LeadsOutside, Unreachable
from comfyline.storage import local as folder_module
from comfyline.storage.local import Folder
from comfyline.storage.places import Places
from comfyline.storage.s3 import Bucket


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


def no_sync(_handle: int) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("fault", ["altered", "disk", "source", "folder there", "file above"])
async def test_a_put_that_fails_leaves_what_was_there_and_nothing_of_its_own(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    target, sha256 = tmp_path / "out/a.png", None
    await Folder().put_text("old", target.as_uri(), "text/plain")
    (tmp_path / "out/b").mkdir()
    before = everything(tmp_path)
    match fault:
        case "altered":
            sha256 = "0" * 64
        case "disk":
            monkeypatch.setattr(folder_module.os, "fsync", no_sync)
        case "source":
            source = tmp_path / "none"
        case "folder there":
            target = tmp_path / "out/b"
        case "file above":
            target /= "a.png"

    with pytest.raises((Altered, OSError), match=r"has changed|output|No such|directory"):
        await Folder().put(source, target.as_uri(), "image/png", sha256=sha256)

    assert everything(tmp_path) == before
    assert (tmp_path / "out/a.png").read_bytes() == b"old"


async def test_size_is_none_only_for_what_is_no_file(tmp_path: Path, source: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    paths = [source, tmp_path / "none", source / "below", tmp_path / "folder", tmp_path / "nowhere"]

    assert await Folder().sizes([path.as_uri() for path in paths]) == [3, None, None, None, None]


async def test_what_cannot_be_told_is_an_error_and_not_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = (tmp_path / "a.png").as_uri()

    def forbidden(path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as closed:
        closed.setattr(folder_module.os, "stat", forbidden)
        with pytest.raises(Unreachable, match=r"a\.png cannot be read: Permission denied"):
            await Folder().size(uri)


async def test_many_sizes_come_in_the_order_asked(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(503)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number % 7))
    uris = [path.as_uri() for path in paths]

    sizes = await Places(Bucket(NO_STORAGE)).sizes(uris)

    assert sizes == {uri: number % 7 for number, uri in enumerate(uris)}


async def test_get_copies_or_says_that_there_is_no_file(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "copy"

    await Folder().get(source.as_uri(), target)
    assert target.read_bytes() == b"new"

    for missing in (tmp_path / "none", source / "below", tmp_path):
        with pytest.raises(FileNotFoundError):
            await Folder().get(missing.as_uri(), target)


def occupy(path: Path, with_what: str) -> None:
    match with_what:
        case "file":
            path.write_bytes(b"theirs")
        case "folder":
            path.mkdir()
        case "link":
            path.with_name("real").write_bytes(b"theirs")
            path.symlink_to("real")
        case "dead link":
            path.symlink_to("nowhere")


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_ino for path in directory.iterdir()}


def without_hard_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("with_what", ["file", "folder", "link", "dead link"])
@pytest.mark.parametrize("links", [os.link, without_hard_links])
async def test_a_new_file_never_takes_a_name_that_is_taken(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_what: str,
    links: Callable[..., None],
) -> None:
    monkeypatch.setattr(folder_module.os, "link", links)
    occupy(target := tmp_path / "a.png", with_what)
    before = inodes(tmp_path)

    with pytest.raises(FileExistsError):
        await Folder().put(source, target.as_uri(), "image/png", new=True)
    await Folder().put(source, (tmp_path / "out/b.png").as_uri(), "image/png", new=True)

    assert {name: inode for name, inode in inodes(tmp_path).items() if name != "out"} == before
    assert (tmp_path / "out/b.png").read_bytes() == b"new"
    assert (tmp_path / "out/b.png").stat().st_nlink == 1
    assert everything(tmp_path / "out") == ["b.png"]


async def test_of_many_who_put_the_same_new_name_one_does(tmp_path: Path) -> None:
    sources = [tmp_path / f"source-{number}" for number in range(12)]
    for number, path in enumerate(sources):
        path.write_bytes(bytes([number]) * 200_000)
    target = tmp_path / "out/a.png"

    puts = [Folder().put(one, target.as_uri(), "image/png", new=True) for one in sources]
    ended = await asyncio.gather(*puts, return_exceptions=True)

    [winner] = [number for number, error in enumerate(ended) if error is None]
    assert {type(error) for error in ended} == {type(None), FileExistsError}
    assert target.read_bytes() == bytes([winner]) * 200_000
    assert everything(tmp_path / "out") == ["a.png"]


async def test_a_link_under_the_final_name_is_replaced_and_not_followed(
    tmp_path: Path, source: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").symlink_to(precious)

    await Folder(tmp_path / "out").put(source, (tmp_path / "out/a.png").as_uri(), "image/png")

    assert precious.read_bytes() == b"theirs"
    assert not (tmp_path / "out/a.png").is_symlink()
    assert (tmp_path / "out/a.png").read_bytes() == b"new"


@pytest.mark.parametrize("how", ["absolute", "upwards", "through another"])
async def test_a_link_below_the_folder_leads_nothing_out_of_it(
    tmp_path: Path, source: Path, how: str
) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "hop").symlink_to(outside)
    leads = {"absolute": str(outside), "upwards": "../outside", "through another": "hop"}[how]
    (out / "cats").symlink_to(leads)
    uri = (out / "cats/deep/a.png").as_uri()

    with pytest.raises(LeadsOutside, match=r"cats/deep leads outside of .*/out to .*/outside/deep"):
        await Folder(out).put(source, uri, "image/png")
    with pytest.raises(LeadsOutside):
        await Folder(out).put_text("{}", f"{uri}.json", "application/json")

    assert everything(outside) == []


async def test_links_that_stay_inside_or_are_the_folder_itself_are_the_users_own(
    tmp_path: Path, source: Path
) -> None:
    (tmp_path / "disk/cats").mkdir(parents=True)
    (tmp_path / "out").symlink_to("disk")
    (tmp_path / "out/dogs").symlink_to("cats")

    uri = (tmp_path / "out/dogs/a.png").as_uri()
    await Folder(tmp_path / "out").put(source, uri, "image/png")

    assert (tmp_path / "disk/cats/a.png").read_bytes() == b"new"


async def test_a_folder_that_may_be_written_but_not_listed_takes_a_file(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o300)

    await Folder(out).put(source, (out / "a.png").as_uri(), "image/png", new=True)

    out.chmod(0o700)
    assert everything(out) == ["a.png"]
