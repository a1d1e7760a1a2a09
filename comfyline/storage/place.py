"""Where files lie: one interface over folders and buckets, chosen by the address."""

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit


class Place(Protocol):
    """A kind of storage. A put is atomic or did not happen; all addresses are URIs."""

    async def size(self, uri: str) -> int | None:
        """The file's size in bytes, None when there is no such file."""

    async def put(self, source: Path, uri: str, media_type: str) -> None:
        """Stores a file under its final name, replacing what was there."""

    async def put_text(self, text: str, uri: str, media_type: str) -> None:
        """Stores a small text under its final name."""

    async def get(self, uri: str, target: Path) -> None:
        """Copies a stored file to local disk. Raises `FileNotFoundError`."""


def join(folder: str, name: str) -> str:
    """The URI of a file in a folder, which is a local path or an `s3://` address."""
    if "://" in folder:
        return f"{folder.rstrip('/')}/{name}"
    return (Path(folder).absolute() / name).as_uri()


def local_path(uri: str) -> Path:
    """The path behind a `file://` URI."""
    return Path(unquote(urlsplit(uri).path))
