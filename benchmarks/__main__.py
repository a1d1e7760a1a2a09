"""`python -m benchmarks [NAME …] [--quick] [--jobs N …]`: the benchmarks one after the other."""

import argparse
import asyncio
import importlib
import os
import signal
import sys

from benchmarks.table import say, show

BENCHMARKS = {
    "chain": "the whole flow over small photographs beside a plain asyncio script",
    "polls": "calls against lag of the poller, on a virtual clock, beside fixed intervals",
    "rerun": "a plan whose outputs are all there, beside GNU make",
    "orchestrator": "what a job costs in CPU and bytes, for a few and for many (`--jobs`)",
    "workers": "one run in shards on a whole site: one worker, two, three",
    "files": "many files, and one large one, to and from S3 beside presigned URLs and s3fs",
}
_INTERRUPTED = 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures comfyline beside a rival: both run on the same servers on this "
        "machine, and a ratio is printed. Nothing is paid for and nothing is left behind.",
        epilog="\n".join(f"  {name:12} {what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which ones, by the names below; default all"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and less exact")
    parser.add_argument(
        "--jobs", nargs="+", type=int, metavar="N", help="the sizes that orchestrator compares"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return arguments


async def _measure(names: list[str], jobs: list[int], *, quick: bool) -> None:
    task = asyncio.current_task()
    if task:
        # As for Ctrl-C: what was started is ended and the folders are removed.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in names:
        # Imported late: each brings only what it needs itself.
        sizes = {"jobs": jobs} if name == "orchestrator" else {}
        benchmark = importlib.import_module(f"benchmarks.{name}")
        for table in await benchmark.measure(quick=quick, **sizes):
            show(table)


def main() -> int:
    """Run what was asked for and return the exit code."""
    arguments = _arguments()
    try:
        names, jobs = arguments.names or list(BENCHMARKS), arguments.jobs or []
        asyncio.run(_measure(names, jobs, quick=arguments.quick))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted; everything that was started has been ended")
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
