"""Google Cloud Storage and Azure, by plain fsspec: stores that show nothing but whole objects.

A driver reads its credentials as it documents, or from `FSSPEC_<SCHEME>_<OPTION>` variables; none
is ever written in an address.
"""
# ruff: noqa: D102  # `Place` says what its methods do

import asyncio
import inspect
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from comfyline.errors import Altered, ComfylineError, Unreachable
from comfyline.redact import without_secrets
from comfyline.storage.connection_errors import what_broke
from comfyline.storage.local import hash_file
from comfyline.storage.place import CHUNK_BYTES, Listed, Place

T = TypeVar("T")

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The schemes, and what each driver is installed as."""
_LONGEST_REASON = 200


def address_mistake(address: str) -> str:
    """Say what is wrong with an address for outputs that is neither a folder nor S3, if any."""
    scheme, _, rest = address.partition("://")
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    if scheme not in _PACKAGES:
        shown = f"{scheme}://{host}{parts.path}"
        return f"{shown} is not a valid place for outputs: name a folder, s3://…, gs://… or az://…"
    if ":" in parts.netloc.rpartition("@")[0]:
        return f"{scheme}://…@{host} holds a password; leave it out, it belongs in the environment"
    if "?" in rest:
        shown = address.partition("?")[0]
        return f"{shown}?… holds a query; credentials belong in the environment"
    if not host:
        return f"{address} names no bucket"
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError:
        package = _PACKAGES[scheme]
        return f"{scheme}:// needs the package {package}: pip install {package}"
    return ""


class FsspecPlace(Place):
    """Objects under `gs://` and `az://` URIs."""

    async def size(self, uri: str) -> int | None:
        def stat(fs: Any, path: str) -> int | None:
            try:
                found = fs.info(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return int(found["size"]) if found["type"] == "file" else None

        return await _do(stat, uri, "looked at")

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
        """Store a file whole or not at all. With `new` it raises `FileExistsError`.

        With `sha256` what was sent is read back: a driver's word for it is not known to be worth
        anything. Raises `Altered` when the file itself holds other bytes.
        """
        # A source that cannot be read is no fault of the server's.
        if sha256 is None:
            await asyncio.to_thread(lambda: source.open("rb").close())
        elif await asyncio.to_thread(hash_file, source) != sha256:
            raise Altered(source)
        wishes: dict[str, Any] = {
            "content_type": media_type or "application/octet-stream",
            "mode": "create" if new else "overwrite",
            "overwrite": not new,
            **({"metadata": dict(metadata)} if metadata else {}),
        }

        def send(fs: Any, path: str) -> None:
            known = inspect.signature(fs.put_file).parameters
            if new and not known.keys() & {"mode", "overwrite"} and fs.exists(path):
                raise FileExistsError(path)
            # Each driver takes what it knows of these, and some fail at what they do not.
            options = {name: value for name, value in wishes.items() if name in known}
            fs.put_file(str(source), path, **options)

        await _do(send, uri, "written")
        if sha256 is not None and await self.sha256(uri) != sha256:
            with suppress(Unreachable, FileNotFoundError):
                await _do(lambda fs, path: fs.rm_file(path), uri, "removed")
            raise Unreachable(
                f"{uri} cannot be written: the bytes that arrived differ from those sent"
            )

    async def put_text(self, text: str, uri: str, media_type: str, *, new: bool = False) -> None:
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "text"
            await asyncio.to_thread(source.write_text, text, encoding="utf-8", newline="")
            await self.put(source, uri, media_type, new=new)

    async def pieces(self, uri: str) -> AsyncGenerator[list[bytes], None]:
        file = await _do(lambda fs, path: fs.open(path, "rb"), uri, "read")
        try:
            while chunk := await _do(lambda *_: file.read(CHUNK_BYTES), uri, "read"):
                yield [chunk]
        finally:
            await asyncio.to_thread(file.close)

    async def names_in(self, folder: str, beginning: str = "") -> dict[str, int]:
        top = f"{folder.rstrip('/')}/"
        files = {one.uri.removeprefix(top): one.bytes async for one in self.files_in(folder)}
        return {
            name: size
            for name, size in files.items()
            if "/" not in name and name.startswith(beginning)
        }

    async def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        # Some drivers keep a slash at the end of the path, and their names would lose it.
        folder = folder.rstrip("/")

        def find(fs: Any, top: str) -> list[Listed]:
            try:
                found = {top: fs.info(top)} if fs.isfile(top) else fs.find(top, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [
                Listed(f"{folder}{name.removeprefix(top)}", one["size"])
                for name, one in found.items()
            ]

        for one in await _do(find, folder, "listed"):
            yield one


async def _do(work: Callable[[Any, str], T], uri: str, what: str) -> T:
    """Do something blocking with a driver and the path of an address, in a thread.

    Raises `Unreachable`, and only of missing and existing files what Python has for them.
    """
    try:
        return await asyncio.to_thread(lambda: work(*_opened(uri)))
    except (ComfylineError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # noqa: BLE001  # drivers raise what they like
        # Without a chain: the driver's text may hold what must not be seen.
        told = str(getattr(error, "strerror", None) or error) or what_broke(error)
        reason = without_secrets(told.splitlines()[0])[:_LONGEST_REASON].rstrip(".")
        variables = f"FSSPEC_{uri.partition('://')[0].upper()}_…"
        raise Unreachable(
            f"{uri} cannot be {what}: {reason}",
            hint=f"Check the address, the network and the credentials ({variables} variables, or "
            "those that the driver reads).",
        ) from None


def _opened(uri: str) -> tuple[Any, str]:
    """Return the driver for an address, which fsspec keeps, and the path that it knows."""
    from fsspec.core import url_to_fs

    # What another process stored a moment ago has to be seen.
    fs, path = url_to_fs(uri, use_listings_cache=False)
    return fs, str(path)
