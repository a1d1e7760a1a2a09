"""Request ids that could not be written into the ledger: kept in a file each until they can.

RunComfy has accepted, and at this very moment the database is away or its disk full. The id is the
only trace of something paid for, so it goes wherever it can be written, and is adopted by the next
process that opens the ledger.
"""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path

from comfyline.atomic import appearing_whole
from comfyline.errors import ComfylineError
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.reading import Selection


class Strays:
    """The folder of request ids that wait to be written down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, key: str, number: int, mark: str | None, request_id: str) -> None:
        """Writes one down, durably. Raises `OSError` when even that cannot be done."""
        told = {"key": key, "number": number, "mark": mark, "request_id": request_id}
        await asyncio.to_thread(_write, self._folder / f"{request_id}.json", json.dumps(told))

    async def adopt(self, ledger: Ledger) -> int:
        """Writes into the ledger what waits here and is this ledger's; how many those were."""
        adopted = 0
        for path in await asyncio.to_thread(lambda: sorted(self._folder.glob("*.json"))):
            with suppress(ComfylineError, OSError, ValueError, KeyError):
                if await _adopt(json.loads(await asyncio.to_thread(path.read_text)), ledger):
                    await asyncio.to_thread(path.unlink)
                    adopted += 1
        return adopted


async def _adopt(told: dict[str, str | int | None], ledger: Ledger) -> bool:
    for attempt in await ledger.list(Selection(key_prefix=str(told["key"])), of_all=True):
        # By its mark, because another ledger may have the same key and number as well.
        if attempt.number == told["number"] and attempt.evidence.mark == told["mark"]:
            await ledger.accepted(attempt.id, str(told["request_id"]))
            return True
    return False


def _write(path: Path, text: str) -> None:
    with appearing_whole(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
