"""A process at a ledger, started by `processes`.

claimer.py URL OWNER open            opens the ledger, says how many attempts are in it
claimer.py URL OWNER all COUNT       claims keys 0 … COUNT-1, says which it got
claimer.py URL OWNER claim KEY       claims one key, says so, and sleeps until it is killed
claimer.py URL OWNER take KEY        takes the hold on one key, says so, and sleeps likewise
claimer.py URL OWNER stuck KEY       sleeps in the middle of the transaction that claims

Each says `ready` and waits for a line on stdin before it begins. OWNER is `own`, for the process's
true name, or a name that it is to go by.
"""

import asyncio
import json
import sys
import time
from typing import Any

from comfyline.files import this_process
from comfyline.job import CheckedJob, Job, Placement
from comfyline.keys import job_key
from comfyline.ledger import writes
from comfyline.ledger.claims import Claimed, Limits
from comfyline.ledger.ledger import Ledger


def job(name: str) -> CheckedJob:
    inputs = {"prompt": name}
    asked = Job("scenes", name, "edit", "acme/painter", inputs, Placement("/out", "x", {}))
    return CheckedJob(asked, job_key("acme/painter", inputs, (), None), (), 0.5)


async def claim(ledger: Ledger, name: str) -> bool:
    limits = Limits(in_flight=1000)
    claim = await ledger.claim(job(name), run_id="run", refresh=False, limits=limits)
    return isinstance(claim, Claimed)


def say(words: str) -> None:
    print(words, flush=True)  # noqa: T201


def say_and_sleep(*_: Any, **__: Any) -> None:
    say("done")
    time.sleep(60)


async def work(ledger: Ledger, what: str, which: str) -> None:
    match what:
        case "open":
            say(str(len(await ledger.list())))
        case "all":
            names = [str(number) for number in range(int(which))]
            say(json.dumps([name for name in names if await claim(ledger, name)]))
        case "claim":
            assert await claim(ledger, which)
            say_and_sleep()
        case "take":
            assert await ledger.acquire(job(which).key)
            say_and_sleep()
        case "stuck":
            writes.lease = say_and_sleep
            await claim(ledger, which)


def main() -> None:
    url, owner, what, *which = sys.argv[1:]
    say("ready")
    sys.stdin.readline()
    ledger = Ledger(url, this_process() if owner == "own" else owner)
    asyncio.run(work(ledger, what, "".join(which)))
    ledger.close()


if __name__ == "__main__":
    main()
