"""Object storage as the sources of pipelines read it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from comfyline.storage.places import Places


class StoredSources:
    """A `comfyline.pipeline.sources.Reader` over the storage of one process.

    What cannot be told, because a server or a permission is in the way, is an `Unreachable`.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    async def files_in(self, prefix: str) -> AsyncGenerator[str, None]:
        """The addresses of all objects that begin with a prefix, a page at a time."""
        async with aclosing(self._places.of(prefix).files_in(prefix)) as listed:
            async for one in listed:
                yield one.uri

    async def fetch(self, uri: str, target: Path) -> None:
        """Copies an object to local disk. Raises `FileNotFoundError`."""
        await self._places.of(uri).get(uri, target)
