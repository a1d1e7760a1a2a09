"""Where files lie: one interface over folders and buckets, chosen by the address."""

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that lies in a place: its size in bytes, and when it was last written."""

    uri: str
    bytes: int
    modified: datetime


class Place(Protocol):
    """A kind of storage. A put is atomic or did not happen; all addresses are URIs.

    What cannot be told, because a server or a permission is in the way, is an `Unreachable`.
    """

    async def size(self, uri: str) -> int | None:
        """The file's size in bytes, None only when there is truly no such file."""

    async def sizes(self, uris: Sequence[str]) -> list[int | None]:
        """The same for many files, in their order."""

    async def sha256(self, uri: str) -> str | None:
        """The hash of the file's bytes, all of which are read; None when there is no such file."""

    async def put(self, source: Path, uri: str, media_type: str) -> None:
        """Stores a file under its final name, replacing what was there."""

    async def put_text(self, text: str, uri: str, media_type: str) -> None:
        """Stores a small text under its final name."""

    async def sweep(self, folder: str) -> int:
        """Removes what dead processes left half-written in a folder; how many those were."""

    async def get(self, uri: str, target: Path) -> None:
        """Copies a stored file to local disk. Raises `FileNotFoundError`."""

    def read(self, uri: str) -> AsyncGenerator[bytes, None]:
        """The file's bytes, a piece at a time. Raises `FileNotFoundError`."""

    def files_in(self, folder: str) -> AsyncGenerator[Listed, None]:
        """All files in a folder, or under a prefix of a bucket, however deep; none is no error."""


def join(folder: str, name: str) -> str:
    """The URI of a file in a folder, which is a local path, a `file://` or an `s3://` address."""
    if folder.startswith("file://"):
        return (local_path(folder) / name).as_uri()
    if "://" in folder:
        return f"{folder.rstrip('/')}/{name}"
    return (Path(folder).absolute() / name).as_uri()


def local_path(uri: str) -> Path:
    """The path behind a `file://` URI, also where its name is no valid UTF-8."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))


def folder_mistake(folder: str) -> str:
    """What is wrong with a folder for outputs, found before anything is paid for; or nothing."""
    scheme, separator, rest = folder.partition("://")
    if not separator:
        return ""
    if scheme not in {"s3", "file"}:
        return f"{folder} is no place for outputs"
    if scheme == "s3" and not rest.split("/", 1)[0]:
        return f"{folder} names no bucket"
    if scheme == "file" and not rest.startswith("/"):
        return f"{folder} names no folder of this machine"
    return ""
