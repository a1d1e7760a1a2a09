"""verify: every stored file read again and compared with what was written down for it."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from comfyline.cli.console import print_json, print_line, results, table
from comfyline.cli.options import Json, PipelineName, Profile, RunId
from comfyline.cli.selection import reading_ledger, storage_of
from comfyline.errors import UsageError
from comfyline.ledger.attempts import Attempt
from comfyline.ledger.block_reasons import short
from comfyline.ledger.queries import Selection
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


async def verify(
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
    attempts: Sequence[Attempt] = ()
    if not target:
        with reading_ledger(profile, of_all=True) as ledger:
            attempts = await ledger.list(Selection(run_id=run, pipeline=pipeline))
    uris = (*target, *(output.uri for one in attempts for output in one.outputs))
    verified = _Found()
    async with open_places(await storage_of(profile, uris)) as places:
        await verify_files(_expected(target, attempts, places), places, verified)
    verified.wrong.sort(key=lambda one: (one.verdict, one.uri))
    if json_output:
        wrong = [
            {"uri": one.uri, "job": one.job, "verdict": _name(one.verdict), "detail": one.detail}
            for one in verified.wrong
        ]
        counts = {_name(verdict): verified.counts[verdict] for verdict in Integrity}
        files = verified.counts.total()
        print_json({"files": files, "bytes": verified.bytes, **counts, "wrong": wrong})
    else:
        _print(verified)
    return 1 if verified.wrong else 0


class _Found:
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


async def _expected(
    target: Sequence[str], attempts: Sequence[Attempt], places: Places
) -> AsyncIterator[Expected | Verified]:
    for one in of_ledger(attempts):
        yield one
    for place in target:
        async for one in of_target(place, places):
            yield one


def _print(verified: _Found) -> None:
    found = [verdict for verdict in Integrity if verified.counts[verdict]]
    if verified.wrong:
        shown = table("what", "job", "file", "why", wrapping={"file", "why"})
        for one in verified.wrong:
            shown.add_row(one.verdict, short(one.job) if one.job else "", one.uri, one.detail)
        results.print(shown)
        for verdict in found:
            if verdict in _WHAT_DOES:
                print_line(f"{verdict}: {_WHAT_DOES[verdict]}")
    counted = ", ".join(f"{verified.counts[verdict]:,} {verdict}" for verdict in found)
    print_line(f"{verified.words}: {counted or 'nothing to verify'}.")


def _name(verdict: Integrity) -> str:
    return verdict.name.lower()
