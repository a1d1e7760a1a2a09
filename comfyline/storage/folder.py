"""Local folders: written under a temporary name, synced, renamed. Power loss leaves all or none."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from comfyline.storage.place import local_path


class Folder:
    """Files under `file://` URIs."""

    async def size(self, uri: str) -> int | None:
        """The file's size in bytes, None when there is no such file."""
        return await asyncio.to_thread(_size, local_path(uri))

    async def put(self, source: Path, uri: str, media_type: str) -> None:  # noqa: ARG002  # a folder keeps none
        """Copies a file to its final name."""

        def copy(target: BinaryIO) -> None:
            with source.open("rb") as file:
                shutil.copyfileobj(file, target, 1024 * 1024)

        await asyncio.to_thread(_write, local_path(uri), copy)

    async def put_text(self, text: str, uri: str, media_type: str) -> None:  # noqa: ARG002
        """Writes a small text to its final name."""
        await asyncio.to_thread(_write, local_path(uri), lambda file: file.write(text.encode()))

    async def get(self, uri: str, target: Path) -> None:
        """Copies a stored file."""
        await asyncio.to_thread(shutil.copyfile, local_path(uri), target)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write(target: Path, fill: Callable[[BinaryIO], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".comfyline-", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Makes a rename survive power loss."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
