"""Object stores by plain fsspec, on a driver that keeps its objects in memory."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from comfyline.config.settings import NO_STORAGE
from comfyline.errors import Altered, Unreachable
from comfyline.storage.places import Places
from comfyline.storage.s3 import Bucket


class Store(MemoryFileSystem):  # type: ignore[misc]
    """What keeps labels, as the drivers of the clouds do."""

    protocol = "gs"
    cachable = False
    kept: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("gs://", "memory://", 1)))

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


class Overwriting(Store):
    """One whose driver calls it by another word, and refuses unless it is told."""

    def put_file(self, lpath: str, rpath: str, *, overwrite: bool = False) -> None:
        MemoryFileSystem.put_file(self, lpath, rpath, mode="overwrite" if overwrite else "create")


class Careless(Store):
    """One whose driver knows no such thing."""

    def put_file(self, lpath: str, rpath: str) -> None:
        MemoryFileSystem.put_file(self, lpath, rpath)


class Forgetful(Store):
    """One that keeps as many bytes as it is sent, and not those."""

    def put_file(self, lpath: str, rpath: str) -> None:
        self.pipe_file(rpath, bytes(Path(lpath).stat().st_size))


class Losing(Store):
    """One that keeps nothing of what it is sent."""

    def put_file(self, lpath: str, rpath: str) -> None:
        pass


class Literal(Store):
    """One that keeps a slash at the end, and says of a bucket that is not there what it is."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path) + "/" * path.endswith("/")

    def find(self, path: str, **options: Any) -> Any:
        if found := super().find(path, **options):
            return found
        raise FileNotFoundError(path)


class Away(Store):
    def info(self, path: str, **_: Any) -> None:
        raise OSError(f"no login at gs://me:swordfish@{path}")


def use(driver: type[Store]) -> None:
    fsspec.register_implementation("gs", driver, clobber=True)


@pytest.fixture(autouse=True)
def store() -> None:
    use(Store)


@pytest.fixture
def places() -> Places:
    return Places(Bucket(NO_STORAGE))


@pytest.fixture
def out() -> str:
    return f"gs://bucket/{secrets.token_hex(6)}/deep"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    path.write_bytes(secrets.token_bytes(300_000))
    return path


async def test_what_is_put_comes_back_by_every_way(
    places: Places, out: str, source: Path, tmp_path: Path
) -> None:
    place, uri, content = places.of_folder(out), f"{out}/ä b#1.png", source.read_bytes()  # noqa: ASYNC240

    await place.put(source, uri, "image/png")
    await place.put_text("{}\n", f"{uri}.json", "application/json")
    await place.put_text("x", f"{out}/below/a", "text/plain")
    await place.get(uri, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == content
    assert b"".join([chunk async for chunk in place.read(uri)]) == content
    assert await place.sha256(uri) == hashlib.sha256(content).hexdigest()
    listed = {one.uri: one.bytes async for one in place.files_in(out)}
    assert listed == {uri: len(content), f"{uri}.json": 3, f"{out}/below/a": 1}
    assert [one.uri async for one in place.files_in(uri)] == [uri]
    assert await place.names_in(out) == {"ä b#1.png": len(content), "ä b#1.png.json": 3}
    assert await place.names_in(out, "b") == {}
    assert await places.sizes([uri, "file:///none"]) == {uri: len(content), "file:///none": None}


async def test_what_is_no_object_has_no_size_no_hash_and_no_bytes(
    places: Places, out: str, tmp_path: Path
) -> None:
    place = places.of(out)
    await place.put_text("x", f"{out}/a.png", "image/png")
    nothing = [f"{out}/b.png", f"{out}/a.png/below", f"{out}/no/b.png", out]

    assert await place.sizes([*nothing, f"{out}/a.png"]) == [None, None, None, None, 1]
    assert await place.sha256(nothing[0]) is None
    assert await place.names_in(f"{out}/no") == {}
    assert [one async for one in place.files_in(f"{out}/no")] == []
    with pytest.raises(FileNotFoundError):
        await place.get(nothing[0], tmp_path / "copy")
    with pytest.raises(FileNotFoundError):
        await anext(place.read(nothing[0]))


@pytest.mark.parametrize("driver", [Store, Overwriting, Careless])
async def test_a_new_object_never_takes_a_name_that_is_taken(
    driver: type[Store], places: Places, out: str, source: Path
) -> None:
    use(driver)
    place, uri, labels = places.of(out), f"{out}/a.png", {"sha256": "ab"}

    await place.put(source, uri, "image/png", new=True)
    with pytest.raises(FileExistsError):
        await place.put_text("ours", uri, "image/png", new=True)
    assert await place.size(uri) == 300_000
    await place.put_text("theirs", uri, "image/png")
    assert await place.size(uri) == 6
    await place.put(source, uri, "image/png", metadata=labels)

    if driver is Store:
        assert Store.kept[uri.removeprefix("gs:/")] == (labels, "image/png")


async def test_other_bytes_than_promised_get_no_name(
    places: Places, out: str, source: Path
) -> None:
    place, uri = places.of(out), f"{out}/a.png"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()  # noqa: ASYNC240
    await place.put(source, f"{out}/b.png", "image/png", sha256=sha256)

    with pytest.raises(Altered, match="has changed since it was checked"):
        await place.put(source, uri, "image/png", sha256="0" * 64)
    for driver in (Forgetful, Losing):
        use(driver)
        with pytest.raises(Unreachable, match="the bytes that arrived differ from those sent"):
            await place.put(source, uri, "image/png", sha256=sha256)
        assert await place.size(uri) is None


async def test_a_folder_may_end_with_a_slash_and_a_missing_one_holds_nothing(
    places: Places, out: str
) -> None:
    use(Literal)
    place = places.of(out)
    await place.put_text("x", f"{out}/a.png", "image/png")

    assert await place.names_in(f"{out}/") == {"a.png": 1}
    assert [one.uri async for one in place.files_in(f"{out}/")] == [f"{out}/a.png"]
    assert await place.names_in("gs://none/out") == {}


async def test_a_store_that_is_away_is_told_in_words_without_secrets(
    places: Places, out: str
) -> None:
    use(Away)

    with pytest.raises(Unreachable, match=r"gs://bucket/.* cannot be looked at") as caught:
        await places.of(out).size(f"{out}/a.png")

    assert "swordfish" not in repr(caught.value) + str(caught.value)
    assert "FSSPEC_GS_" in caught.value.hint
