"""The side of comfyline in `chain`: the pipeline flow, as `comfyline run` carries it out."""

import asyncio
import sys
import time
from typing import Any

from benchmarks.contenders.side import start
from comfyline.cli.prefect import connect, run_flow


async def main(path: str) -> None:
    """Run a pipeline file once."""
    # Before Prefect is imported, which reads its environment there.
    await connect(("storage",))
    from flows.pipeline import pipeline

    def flow() -> Any:
        return pipeline(path=path, profile="sandbox", return_state=True)

    watch = start()
    summary = await run_flow(flow)
    if summary.exit_code:
        sys.exit(f"the run did not succeed: {summary.to_json()}")
    watch.tell(ended_at=time.time())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
