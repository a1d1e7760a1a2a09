"""The side of comfyline in `chain`: the pipeline flow, as `comfyline run` carries it out."""

import asyncio
import sys
import time
from typing import Any

from benchmarks.contenders.side import start
from comfyline.cli.prefect import connect, summary_of


async def main(path: str) -> None:
    """Run a pipeline file once."""
    # Before Prefect is imported, which reads its environment there.
    await connect(("storage",))
    from flows.pipeline import pipeline

    watch = start()
    state: Any = pipeline(path=path, profile="sandbox", return_state=True)
    summary = await summary_of(state)
    if summary.exit_code:
        sys.exit(f"the run did not succeed: {summary.to_json()}")
    watch.tell(ended_at=time.time())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
