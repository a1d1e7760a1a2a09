"""A process that claims, started by `test_processes`.

claimer.py URL all COUNT     prepares, waits for a line on stdin, claims keys 0 … COUNT-1
claimer.py URL hang KEY      claims one key, says so, and sleeps until it is killed
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

from comfyline.job import CheckedJob, Job, Placement
from comfyline.keys import job_key
from comfyline.ledger.ledger import Claimed, Ledger, Limits


def job(name: str) -> CheckedJob:
    inputs = {"prompt": name}
    asked = Job("scenes", name, "edit", "acme/painter", inputs, Placement("/out", "x", {}))
    return CheckedJob(asked, job_key("acme/painter", inputs, (), None), (), 0.5)


async def claim(ledger: Ledger, name: str) -> bool:
    limits = Limits(in_flight=1000, flight_window=3600, max_cost_usd=None)
    claim = await ledger.claim(job(name), run_id="run", refresh=False, limits=limits)
    return isinstance(claim, Claimed)


async def claim_all(ledger: Ledger, count: int) -> list[str]:
    names = [str(number) for number in range(count)]
    return [name for name in names if await claim(ledger, name)]


def main() -> None:
    url, what, which = sys.argv[1:]
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    ledger = Ledger(url, "claimer", lambda: datetime.now(UTC))
    if what == "all":
        print(json.dumps(asyncio.run(claim_all(ledger, int(which)))), flush=True)  # noqa: T201
    else:
        assert asyncio.run(claim(ledger, which))
        print("claimed", flush=True)  # noqa: T201
        time.sleep(60)
    ledger.close()


if __name__ == "__main__":
    main()
