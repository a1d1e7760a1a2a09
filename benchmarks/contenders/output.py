"""The side of comfyline in `downloads`: one output through `Downloads`, proved or not."""

import asyncio
import sys
from pathlib import Path

from benchmarks.contenders.side import peak_mb, start
from comfyline.job import MediaInfo
from comfyline.media.probe import check_beginning, check_whole
from comfyline.runcomfy.downloads import Downloads
from comfyline.runcomfy.pool import Pool

_TARGET = Path("fetched")


class _Video:
    def begins(self, head: bytes) -> None:
        check_beginning(head, "video")

    def whole(self, path: Path) -> MediaInfo:
        return check_whole(path, "video")


async def main(way: str, url: str) -> None:
    """Fetch the file."""
    async with Downloads((), url.rpartition("/")[0]) as downloads:
        _ = Pool  # loaded before the race, as the libraries of the others are
        base, watch = peak_mb(), start()
        await downloads.save(url, _TARGET, _Video() if way == "proved" else None)
        watch.tell(base_mb=base)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    _TARGET.unlink()
