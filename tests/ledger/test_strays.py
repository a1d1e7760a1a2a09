"""Request ids that the ledger could not take: kept, and written down as soon as it can."""

from pathlib import Path

from comfyline.job import JobState
from comfyline.ledger.claiming import Claimed
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.records import Evidence
from comfyline.ledger.strays import Strays
from tests.ledger.conftest import ROOMY, Clock, Desk, asked


async def claimed(ledger: Ledger, mark: str) -> Claimed:
    claim = await ledger.claim(
        asked(), run_id="run-1", refresh=False, limits=ROOMY, evidence=Evidence(mark=mark)
    )
    assert isinstance(claim, Claimed)
    return claim


async def test_an_id_that_could_not_be_written_ends_the_doubt_later(
    desk: Desk, ledger: Ledger, clock: Clock, tmp_path: Path
):
    job, strays = asked(), Strays(tmp_path / "strays")
    claim = await claimed(ledger, "mark-1")
    await strays.keep(job.key, claim.number, "mark-1", "request-7")
    clock.forward(61)
    await ledger.end_dead_leases()
    assert await desk.state(job) is JobState.IN_DOUBT

    assert await strays.adopt(ledger) == 1

    known = await desk.known(job)
    assert (known.state, known.request_id) == (JobState.SUBMITTED, "request-7")
    assert list((tmp_path / "strays").iterdir()) == []


async def test_an_id_of_another_ledger_is_kept_for_it(desk: Desk, ledger: Ledger, tmp_path: Path):
    job, strays = asked(), Strays(tmp_path / "strays")
    claim = await claimed(ledger, "mark-1")
    await strays.keep(job.key, claim.number, "mark-of-another", "request-7")

    assert await strays.adopt(ledger) == 0

    assert (await desk.known(job)).request_id is None
    assert [path.name for path in (tmp_path / "strays").iterdir()] == ["request-7.json"]


async def test_what_is_no_stray_stops_nothing(ledger: Ledger, tmp_path: Path):
    (tmp_path / "strays").mkdir()
    (tmp_path / "strays" / "note.json").write_text("{")
    assert await Strays(tmp_path / "strays").adopt(ledger) == 0
    assert await Strays(tmp_path / "nowhere").adopt(ledger) == 0
