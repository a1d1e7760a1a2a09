"""Any storage that fsspec has a driver for, with the guarantees of a folder as far as it has them.

Where a name can be given by a rename, a file is sent under a temporary one; object stores show
nothing before it is complete.
"""

import asyncio
import hashlib
import inspect
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from comfyline.errors import Altered, ComfylineError
from comfyline.files import is_leftover, part_path
from comfyline.storage.connections import Connections
from comfyline.storage.drivers import shows_whole_objects
from comfyline.storage.place import Listed, all_of
from comfyline.storage.reading import hash_file

_LOOKS_AT_ONCE = 200
_MOST_RIVALS = 5
_READ_BYTES = 1024 * 1024
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What the drivers call the time at which a file was last written."""


class RemoteFolder:
    """Files of one server or account: all addresses with the same scheme and host."""

    def __init__(self, base: str) -> None:
        self._scheme = base.partition("://")[0]
        self._connections = Connections(base)

    async def close(self) -> None:
        """Ends the connections that this place opened."""
        await self._connections.close()

    async def size(self, uri: str) -> int | None:
        """The file's size in bytes, None when there is no such file."""

        def look(fs: Any) -> int | None:
            try:
                found = fs.info(_path(fs, uri))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return int(found["size"]) if found["type"] == "file" else None

        return await self._connections.do(look, f"{uri} cannot be looked at")

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        """The same for many files, in their order."""
        found: list[int | None] = []
        for start in range(0, len(uris), _LOOKS_AT_ONCE):
            some = uris[start : start + _LOOKS_AT_ONCE]
            found += await all_of(self.size(uri) for uri in some)
        return found

    async def sha256(self, uri: str) -> str | None:
        """The hash of the file's bytes, None when there is no such file."""

        def read(fs: Any) -> str | None:
            try:
                return _hash(fs, _path(fs, uri))
            except FileNotFoundError:
                return None

        return await self._connections.do(read, f"{uri} cannot be read")

    async def put(
        self,
        source: Path,
        uri: str,
        media_type: str,
        *,
        sha256: str | None = None,
        metadata: Mapping[str, str] | None = None,
        new: bool = False,
    ) -> None:
        """Stores a file whole or not at all. With `new` it raises `FileExistsError`.

        With `sha256` what was sent is read back: a driver's word for it is not known to be worth
        anything. Raises `Altered` when the file itself holds other bytes.
        """
        sends = self._send_whole if shows_whole_objects(self._scheme) else self._send_and_rename
        labels: dict[str, Any] = {"content_type": media_type or "application/octet-stream"}
        labels |= {"metadata": dict(metadata)} if metadata else {}
        # A source that cannot be read is no fault of the server's.
        if sha256 is None:
            await asyncio.to_thread(lambda: source.open("rb").close())
        elif await asyncio.to_thread(hash_file, source) != sha256:
            raise Altered(source)
        await self._connections.do(
            lambda fs: sends(fs, source, _path(fs, uri), labels, sha256, new=new),
            f"{uri} cannot be written",
        )

    async def put_text(self, text: str, uri: str, media_type: str, *, new: bool = False) -> None:
        """Stores a small text in the same way."""
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "text"
            await asyncio.to_thread(source.write_text, text, encoding="utf-8", newline="")
            await self.put(source, uri, media_type, new=new)

    async def sweep(self, folder: str) -> int:
        """Removes what dead processes left half-written in a folder; how many files those were."""
        if shows_whole_objects(self._scheme):
            return 0

        def work(fs: Any) -> int:
            removed = 0
            with suppress(FileNotFoundError, NotADirectoryError):
                for found in fs.ls(_path(fs, folder), detail=True):
                    name = found["name"].rpartition("/")[2]
                    if is_leftover(name, _modified(found).timestamp()):
                        fs.rm_file(found["name"])
                        removed += 1
            return removed

        return await self._connections.do(work, f"{folder} cannot be listed")

    async def get(self, uri: str, target: Path) -> None:
        """Copies a stored file to local disk. Raises `FileNotFoundError`."""
        await self._connections.do(
            lambda fs: fs.get_file(_path(fs, uri), str(target)), f"{uri} cannot be read"
        )

    async def read(self, uri: str) -> AsyncGenerator[bytes, None]:
        """The file's bytes, a piece at a time. Raises `FileNotFoundError`."""
        async with self._connections.one(f"{uri} cannot be read") as call:
            file = await call(lambda fs: fs.open(_path(fs, uri), "rb"))
            try:
                while chunk := await call(lambda _: file.read(_READ_BYTES)):
                    yield chunk
            finally:
                with suppress(ComfylineError):
                    await call(lambda _: file.close())

    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        """The files in a folder itself whose names begin so: name and size."""

        def look(fs: Any) -> dict[str, int]:
            try:
                listed = fs.ls(_path(fs, folder), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            files = {one["name"].rstrip("/").rpartition("/")[2]: one for one in listed}
            return {
                name: int(one["size"] or 0)
                for name, one in files.items()
                if one["type"] == "file" and name.startswith(beginning)
            }

        return await self._connections.do(look, f"{folder} cannot be listed")

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """All files in a folder and below it; a file is the only one in itself."""
        async with self._connections.one(f"{folder} cannot be listed") as call:
            found = await call(lambda fs: _list(fs, folder))
            while some := await call(lambda _: list(islice(found, _LOOKS_AT_ONCE))):
                for one in some:
                    yield one

    def _send_whole(
        self,
        fs: Any,
        source: Path,
        path: str,
        labels: Mapping[str, Any],
        sha256: str | None,
        *,
        new: bool,
    ) -> None:
        known = inspect.signature(fs.put_file).parameters
        ways = {"mode": "create" if new else "overwrite", "overwrite": not new}
        if new and not known.keys() & ways.keys() and fs.exists(path):
            raise FileExistsError(path)
        # Each driver takes what it knows of these, and some fail at what they do not.
        options = {name: value for name, value in {**labels, **ways}.items() if name in known}
        fs.put_file(str(source), path, **options)
        try:
            _prove(fs, path, sha256)
        except OSError:
            with suppress(Exception):
                fs.rm_file(path)
            raise

    def _send_and_rename(
        self,
        fs: Any,
        source: Path,
        path: str,
        labels: Mapping[str, Any],  # noqa: ARG002  # files have none
        sha256: str | None,
        *,
        new: bool,
    ) -> None:
        folder, _, name = path.rpartition("/")
        part = f"{folder}/{part_path(Path(name)).name}"
        _make_folder(fs, folder)
        try:
            fs.put_file(str(source), part)
            _prove(fs, part, sha256)
            _appear(fs, part, path, source.stat().st_size, new=new)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(part)
            raise


def _make_folder(fs: Any, folder: str) -> None:
    for attempt in range(_MOST_RIVALS):
        try:
            fs.makedirs(folder, exist_ok=True)
        except OSError:
            # Another may have made it, or one above it, since the driver looked.
            if not fs.isdir(folder) and attempt == _MOST_RIVALS - 1:
                raise
        else:
            return


def _appear(fs: Any, part: str, path: str, size: int, *, new: bool) -> None:
    """Gives a file that has arrived whole its final name."""
    if fs.info(part)["size"] != size:
        raise OSError("it arrived incomplete")
    if new and fs.exists(path):
        raise FileExistsError(path)
    fs.mv(part, path)


def _prove(fs: Any, path: str, sha256: str | None) -> None:
    if sha256 is not None and _hash(fs, path) != sha256:
        raise OSError("other bytes arrived than were sent")


def _hash(fs: Any, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _path(fs: Any, uri: str) -> str:
    return str(fs._strip_protocol(uri))  # noqa: SLF001  # fsspec's own way from a URL


def _list(fs: Any, folder: str) -> Iterator[Listed]:
    top = _path(fs, folder)
    try:
        itself = fs.info(top)
    except (FileNotFoundError, NotADirectoryError):
        return
    if itself["type"] == "file":
        yield Listed(folder, itself["size"], _modified(itself))
        return
    for _, _, files in fs.walk(top, detail=True):
        for found in files.values():
            below = found["name"].removeprefix(top).lstrip("/")
            yield Listed(f"{folder.rstrip('/')}/{below}", found["size"] or 0, _modified(found))


def _modified(found: Mapping[str, Any]) -> datetime:
    """When a file was last written; now, where the driver does not say."""
    when = next((found[name] for name in _TIMES if found.get(name)), None)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    if isinstance(when, int | float):
        return datetime.fromtimestamp(when, UTC)
    if not isinstance(when, datetime):
        return datetime.now(UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
