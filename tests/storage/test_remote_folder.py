import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from comfyline.errors import Altered, Unreachable
from comfyline.files import part_path, this_process
from comfyline.operations.verify import Integrity, Verified, of_target, verify
from comfyline.storage import connections as connections_module
from comfyline.storage.places import Places
from comfyline.storage.remote_folder import RemoteFolder
from comfyline.storage.s3 import Bucket

BASE = "ftp://nas"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of a server lie whose driver writes files in place and renames them."""
    root = tmp_path / "server"
    root.mkdir()

    class Share(LocalFileSystem):  # type: ignore[misc]
        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.replace(BASE, str(root), 1)))

    monkeypatch.setattr(
        connections_module, "open_driver", lambda _: Share(skip_instance_cache=True)
    )
    return root


@pytest.fixture
async def place(root: Path) -> AsyncIterator[RemoteFolder]:  # noqa: ARG001
    opened = RemoteFolder(BASE)
    yield opened
    await opened.close()


@pytest.fixture
def out(root: Path) -> str:  # noqa: ARG001
    """A folder on the server that no other test uses."""
    return f"{BASE}/{secrets.token_hex(6)}/deep"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    path.write_bytes(secrets.token_bytes(300_000))
    return path


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:7])


def there(root: Path, out: str) -> list[str]:
    folder = root / out.removeprefix(f"{BASE}/")
    return sorted(path.name for path in folder.rglob("*"))


async def test_what_is_put_comes_back_by_every_way(
    place: RemoteFolder, root: Path, out: str, source: Path, tmp_path: Path
) -> None:
    uri = f"{out}/ä b#1.png"

    await place.put(source, uri, "image/png")
    await place.put_text("{}\n", f"{uri}.json", "application/json")
    await place.get(uri, tmp_path / "copy")

    content = bytes_of(source)
    assert there(root, out) == ["ä b#1.png", "ä b#1.png.json"]
    assert (tmp_path / "copy").read_bytes() == content
    assert b"".join([chunk async for chunk in place.read(uri)]) == content
    assert await place.sha256(uri) == hashlib.sha256(content).hexdigest()
    listed = {one.uri: one.bytes async for one in place.files_in(out)}
    assert listed == {uri: len(content), f"{uri}.json": 3}
    assert [one.uri async for one in place.files_in(uri)] == [uri]


async def test_what_is_no_file_has_no_size_no_hash_and_no_bytes(
    place: RemoteFolder, out: str, source: Path, tmp_path: Path
) -> None:
    await place.put(source, f"{out}/a.png", "image/png")
    nothing = [f"{out}/b.png", f"{out}/a.png/below", f"{out}/no/b.png", out]

    assert await place.sizes([*nothing, f"{out}/a.png"]) == [None, None, None, None, 300_000]
    assert await place.sha256(nothing[0]) is None
    assert [one async for one in place.files_in(f"{out}/no")] == []
    with pytest.raises(FileNotFoundError):
        await place.get(nothing[0], tmp_path / "copy")
    with pytest.raises(FileNotFoundError):
        await anext(place.read(nothing[0]))


async def test_a_put_replaces_and_a_new_put_does_not(
    place: RemoteFolder, root: Path, out: str, source: Path
) -> None:
    uri = f"{out}/a.png"
    await place.put_text("theirs", uri, "image/png", new=True)

    with pytest.raises(FileExistsError):
        await place.put(source, uri, "image/png", new=True)
    assert await place.size(uri) == 6

    await place.put(source, uri, "image/png")
    assert await place.size(uri) == 300_000
    assert there(root, out) == ["a.png"]


async def test_a_put_that_breaks_off_leaves_what_was_there_and_the_next_one_works(
    place: RemoteFolder, root: Path, out: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{out}/a.png"
    await place.put_text("before", uri, "image/png")
    with monkeypatch.context() as broken:
        broken.setattr(LocalFileSystem, "put_file", hang_up)
        with pytest.raises(Unreachable, match="cannot be written"):
            await place.put(source, uri, "image/png")

    assert await place.size(uri) == 6

    await place.put(source, uri, "image/png")
    assert await place.size(uri) == 300_000
    assert there(root, out) == ["a.png"]


def dead_process() -> str:
    """A name such as this very process would have had in an earlier life of its number."""
    host_and_number, machine, started, token = this_process().rsplit("/", 3)
    return f"{host_and_number}/{machine}/{int(started) - 1}/{token}"


def hang_up(*_: Any) -> None:
    raise OSError("Socket is closed")


async def test_a_sweep_removes_what_dead_processes_left_and_nothing_else(
    place: RemoteFolder, root: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = part_path(Path("a.png")).name
    with monkeypatch.context() as dead:
        dead.setattr("comfyline.files.this_process", dead_process)
        left = part_path(Path("a.png")).name
    for name in (mine, left, "a.png"):
        await place.put_text("x", f"{out}/{name}", "image/png")

    assert await place.sweep(out) == 1
    assert await place.sweep(f"{out}/none") == 0
    assert there(root, out) == sorted([mine, "a.png"])


async def test_a_server_that_is_away_is_told_in_words_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: str) -> None:
        raise OSError("no login at ftp://me:swordfish@nas/out")

    monkeypatch.setattr(connections_module, "open_driver", refused)

    with pytest.raises(Unreachable, match=r"ftp://nas/a\.png cannot be looked at") as caught:
        await RemoteFolder(BASE).size(f"{BASE}/a.png")
    assert "swordfish" not in repr(caught.value) + str(caught.value)


@pytest.mark.usefixtures("root")
async def test_places_tell_addresses_apart_and_keep_one_place_a_server() -> None:
    places = Places(Bucket(None, None, None))

    uris = [f"{BASE}/a", f"{BASE}/b"]

    assert places.of(uris[0]) is places.of(uris[1]) is places.of_folder(BASE)
    assert await places.sizes([*uris, "file:///none"]) == dict.fromkeys([*uris, "file:///none"])
    await places.close()


class Labelled(MemoryFileSystem):  # type: ignore[misc]
    """An object store that keeps labels, as the drivers of the clouds do."""

    protocol = "memory"
    kept: dict[str, Any] = {}  # noqa: RUF012

    def put_file(
        self,
        lpath: str,
        rpath: str,
        *,
        mode: str = "overwrite",
        metadata: Any = None,
        content_type: str = "",
    ) -> None:
        super().put_file(lpath, rpath, mode=mode)
        self.kept[rpath] = (metadata, content_type)


class Overwriting(MemoryFileSystem):  # type: ignore[misc]
    """One whose driver calls it by another word, and refuses unless it is told."""

    protocol = "memory"

    def put_file(self, lpath: str, rpath: str, *, overwrite: bool = False) -> None:
        super().put_file(lpath, rpath, mode="overwrite" if overwrite else "create")


class Careless(MemoryFileSystem):  # type: ignore[misc]
    """One whose driver knows no such thing."""

    protocol = "memory"

    def put_file(self, lpath: str, rpath: str) -> None:
        super().put_file(lpath, rpath)


@pytest.mark.parametrize("driver", [Labelled, Overwriting, Careless])
async def test_an_object_store_takes_the_final_name_only_whole_and_once(
    driver: type[MemoryFileSystem], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = driver(skip_instance_cache=True)
    monkeypatch.setattr(connections_module, "open_driver", lambda _: opened)
    folder = f"memory://{secrets.token_hex(6)}"
    place, uri = RemoteFolder("memory://"), f"{folder}/a.png"

    labels = {"sha256": "ab"}
    await place.put(source, uri, "image/png", new=True)
    with pytest.raises(FileExistsError):
        await place.put(source, uri, "image/png", new=True)
    shorten(source)
    await place.put(source, uri, "image/png", metadata=labels)

    assert [(one.uri, one.bytes) async for one in place.files_in(folder)] == [(uri, 7)]
    assert await place.sweep(folder) == 0
    if driver is Labelled:
        assert Labelled.kept[opened._strip_protocol(uri)] == (labels, "image/png")


class Forgetful(MemoryFileSystem):  # type: ignore[misc]
    """One that keeps as many bytes as it is sent, and not those."""

    protocol = "memory"

    def put_file(self, lpath: str, rpath: str) -> None:
        self.pipe_file(rpath, bytes(Path(lpath).stat().st_size))


async def test_what_a_store_keeps_instead_of_what_it_was_sent_is_noticed_and_removed(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Forgetful(skip_instance_cache=True)
    monkeypatch.setattr(connections_module, "open_driver", lambda _: opened)
    place, uri = RemoteFolder("memory://"), f"memory://{secrets.token_hex(6)}/a.png"
    sha256 = hashlib.sha256(bytes_of(source)).hexdigest()

    with pytest.raises(Unreachable, match="other bytes arrived than were sent"):
        await place.put(source, uri, "image/png", sha256=sha256)

    assert await place.size(uri) is None


async def test_a_file_that_is_another_one_than_promised_is_not_sent(
    place: RemoteFolder, root: Path, out: str, source: Path
) -> None:
    with pytest.raises(Altered, match="has changed since it was checked"):
        await place.put(source, f"{out}/a.png", "image/png", sha256="0" * 64)

    assert there(root, out) == []


async def test_what_lies_at_a_server_is_verified_by_its_sidecars(out: str, source: Path) -> None:
    places = Places(Bucket(None, None, None))
    place = places.of_folder(out)
    sha256 = hashlib.sha256(bytes_of(source)).hexdigest()
    told = {"job": "k", "output": {"sha256": sha256, "bytes": 300_000}}
    for name in ("right", "changed"):
        await place.put(source, f"{out}/{name}.png", "image/png")
        await place.put_text(json.dumps(told), f"{out}/{name}.png.json", "application/json")
    await place.put_text("else", f"{out}/changed.png", "image/png")
    heard: list[Verified] = []

    await verify(of_target(out, places), places, heard.append)

    verdicts = {one.uri.rpartition("/")[2]: one.verdict for one in heard}
    assert verdicts == {"right.png": Integrity.RIGHT, "changed.png": Integrity.CHANGED}
    await places.close()
