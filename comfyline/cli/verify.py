"""verify: every stored file read again and compared with what was written down for it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from comfyline.cli.console import print_line, print_result, results, table
from comfyline.cli.options import Json, PipelineName, Profile, RunId
from comfyline.cli.selection import any_in_bucket, reading_ledger, selection
from comfyline.config.load import prepare_storage
from comfyline.config.settings import NO_STORAGE, StorageSettings
from comfyline.errors import UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.operations.verify import Expected, Integrity, Verified, of_ledger, of_target
from comfyline.operations.verify import verify as verify_files
from comfyline.report.format import count
from comfyline.services import open_places
from comfyline.storage.places import Places

_SECONDS_BETWEEN_LINES = 5.0
_WHAT_DOES = {
    Integrity.CHANGED: "`comfyline run --verify` fetches it again while RunComfy keeps it: 7 days.",
    Integrity.MISSING: "`comfyline run` fetches it again while RunComfy keeps it: 7 days.",
    Integrity.UNREADABLE: "Fix the storage or its permissions, then verify again.",
    Integrity.NO_SIDECAR: "Nothing says what it should be: `comfyline audit` names its job.",
}


class _Progress:
    """Counts what is verified, keeps what is not right, and says now and then how far it is."""

    def __init__(self) -> None:
        self.counts: Counter[Integrity] = Counter()
        self.wrong: list[Verified] = []
        self.bytes = 0
        self._said_at = time.monotonic()

    def __call__(self, one: Verified) -> None:
        self.counts[one.verdict] += 1
        self.bytes += one.bytes
        if one.verdict is not Integrity.RIGHT:
            self.wrong.append(one)
        if time.monotonic() - self._said_at >= _SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            print_line(f"{self.words}, {len(self.wrong):,} not right so far …")

    @property
    def words(self) -> str:
        return f"{count(self.counts.total(), 'file')}, {self.bytes / 1e6:,.1f} MB read"


def verify(
    *target: str,
    run: RunId = None,
    pipeline: PipelineName = None,
    profile: Profile = "sandbox",
    json_output: Json = False,
) -> int:
    """Read every stored file again and compare it with the SHA-256 written down for it.

    Example: comfyline verify, or comfyline verify s3://my-bucket/office-scenes

    Parameters
    ----------
    target
        Folders or s3://bucket/prefix, compared with the sidecars that lie there: no ledger is
        needed. Without any, every output that the ledger knows.
    """
    if target and (run or pipeline):
        raise UsageError("Name either what to verify, or --run or --pipeline")
    progress = _Progress()

    async def work() -> None:
        attempts: Sequence[Attempt] = ()
        if not target:
            with reading_ledger(profile, of_all=True) as ledger:
                attempts = await ledger.list(selection(run, pipeline, None, None))
        async with open_places(await _storage(profile, target, attempts)) as places:
            await verify_files(_expected(target, attempts, places), places, progress)

    asyncio.run(work())
    progress.wrong.sort(key=lambda one: (one.verdict, one.uri))
    if json_output:
        print_result(json.dumps(_as_json(progress)))
    else:
        _print(progress)
    return 1 if progress.wrong else 0


async def _storage(
    profile: str, target: Sequence[str], attempts: Sequence[Attempt]
) -> StorageSettings:
    """Open the storage of the profile where anything lies in a bucket; folders need none."""
    if any(uri.startswith("s3://") for uri in target) or any_in_bucket(attempts):
        return await prepare_storage(profile, print_line)
    return NO_STORAGE


async def _expected(
    target: Sequence[str], attempts: Sequence[Attempt], places: Places
) -> AsyncIterator[Expected | Verified]:
    for one in of_ledger(attempts):
        yield one
    for place in target:
        async for one in of_target(place, places):
            yield one


def _print(progress: _Progress) -> None:
    if progress.wrong:
        shown = table("what", "job", "file", "why", wrapping={"file", "why"})
        for one in progress.wrong:
            job = short(one.job) if one.job else ""
            shown.add_row(one.verdict, job, one.uri, one.detail)
        results.print(shown)
        for verdict in Integrity:
            if progress.counts[verdict] and verdict in _WHAT_DOES:
                print_line(f"{verdict}: {_WHAT_DOES[verdict]}")
    found = ", ".join(
        f"{progress.counts[one]:,} {one}" for one in Integrity if progress.counts[one]
    )
    print_line(f"{progress.words}: {found or 'nothing to verify'}.")


def _as_json(progress: _Progress) -> dict[str, Any]:
    counts = {verdict.name.lower(): progress.counts[verdict] for verdict in Integrity}
    return {
        "files": progress.counts.total(),
        "bytes": progress.bytes,
        **counts,
        "wrong": [
            {
                "uri": one.uri,
                "job": one.job,
                "verdict": one.verdict.name.lower(),
                "detail": one.detail,
            }
            for one in progress.wrong
        ],
    }
