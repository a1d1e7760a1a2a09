"""Runs many orders through the `generate` flow in one process, as a script of a user's might.

Reads `[{"model_id": …, "inputs": …}, …]` from standard input; prints one object for each order,
in their order: the type and message of the flow run's state, and its summary.
"""

import asyncio
import json
import sys
from typing import Any

from comfyline.cli.prefect import connect


async def main(orders: list[dict[str, Any]]) -> None:
    await connect(("storage",))
    # Prefect reads its environment when it is imported.
    from flows.generate import generate

    # A Prefect server on SQLite turns callers away who come all at once.
    turns = asyncio.Semaphore(4)

    async def run(order: dict[str, Any]) -> dict[str, Any]:
        async with turns:
            state = await generate(**order, profile="shapes", output="outputs", return_state=True)
        summary = await state.aresult(raise_on_failure=False)
        told = json.loads(summary.model_dump_json()) if hasattr(summary, "jobs") else {}
        return {"state": state.name, "message": state.message, "summary": told}

    answers = await asyncio.gather(*(run(order) for order in orders))
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
