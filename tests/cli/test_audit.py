from typing import Any

import pytest

from comfyline.errors import Cancelled, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.storage.place import local_path
from tests.cli.conftest import Office, ago, asked

PRICE = 0.14
OFFLINE = ("audit", "--offline", "--json")


def kinds(audit: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["job"], one["kind"]) for one in audit["differences"]]


@pytest.fixture
def made(office: Office, files: str) -> str:
    """A request that RunComfy has charged."""
    return office.generated("an audited office", f"{files}/cat.jpg")


def test_where_charges_jobs_and_files_agree_nothing_differs(office: Office, made: str):
    office.stored(asked("right"), made, cost=PRICE)

    audit = office.comfyline("audit", "--json")

    assert (audit.code, audit.json["differences"]) == (0, [])
    assert (audit.json["jobs"], audit.json["files"]) == (1, 1)
    assert audit.json["ledger_usd"] == audit.json["runcomfy_usd"] == PRICE
    assert audit.json["balance_usd"] == office.sandbox.account()["balance_usd"]
    assert "No differences" in office.comfyline("audit").stderr


@pytest.mark.parametrize("known", [0.5, None])
def test_a_charge_is_compared_with_what_runcomfy_says_now_and_offline_it_is_not_asked(
    office: Office, made: str, known: float | None, monkeypatch: pytest.MonkeyPatch
):
    job = asked("charged otherwise")
    office.stored(job, made, cost=known)

    assert kinds(office.comfyline("audit", "--json").json) == [(job.key, "charge-differs")]
    monkeypatch.delenv("RUNCOMFY_API_TOKEN")
    audit = office.comfyline(*OFFLINE).json
    assert kinds(audit) == ([] if known else [(job.key, "cost-unknown")])
    assert (audit["asked"], audit["runcomfy_usd"]) == (0, None)


def test_every_way_in_which_files_differ_is_named(office: Office):
    jobs = {name: asked(name) for name in ("gone", "cut", "bare", "foreign", "broken", "taken")}
    files = {
        name: office.stored(job, f"request-{name}", name.encode()) for name, job in jobs.items()
    }
    paths = {name: local_path(output.uri) for name, output in files.items()}
    sidecars = {name: path.with_name(f"{path.name}.json") for name, path in paths.items()}
    paths["gone"].unlink()
    paths["cut"].write_bytes(b"")
    sidecars["bare"].unlink()
    sidecars["foreign"].write_text(sidecars["cut"].read_text())
    sidecars["broken"].write_text("{")
    sidecars["taken"].write_text(sidecars["taken"].read_text().replace("request-", "another-"))

    audit = office.comfyline(*OFFLINE)

    assert audit.code == 1
    assert dict(kinds(audit.json)) == {
        jobs["gone"].key: "file-missing",
        jobs["cut"].key: "file-changed",
        jobs["bare"].key: "sidecar-missing",
        jobs["foreign"].key: "sidecar-differs",
        jobs["broken"].key: "file-unreadable",
        jobs["taken"].key: "sidecar-differs",
    }
    assert {one["uri"] for one in audit.json["differences"]} == {one.uri for one in files.values()}


def test_money_without_a_file_is_named_for_programs_and_for_people(office: Office):
    waiting, doubt, failed, lost, cancelled = map(
        asked, ("waiting", "doubt", "failed", "lost", "cancelled")
    )
    office.submitted(waiting)
    office.doubted(doubt)
    failing, losing, ending = map(office.submitted, (failed, lost, cancelled))

    async def end(ledger: Ledger) -> None:
        no, gone = GenerationFailed("it failed"), GenerationFailed("it is gone")
        await ledger.ended(failing, JobState.FAILED, no, cost_usd=0.1)
        await ledger.completed(losing, 0.14)
        await ledger.ended(losing, JobState.EXPIRED, gone)
        await ledger.ended(ending, JobState.CANCELLED, Cancelled("it was cancelled"))

    office.ledger(end)

    audit, shown = office.comfyline(*OFFLINE).json, office.comfyline("audit", "--offline")

    assert kinds(audit) == [
        (waiting.key, "paid-not-stored"),
        (doubt.key, "in-doubt"),
        (failed.key, "charged-for-nothing"),
        (lost.key, "paid-not-stored"),
    ]
    assert audit["in_doubt"] == 1
    assert (shown.code, "4 differences." in shown.stderr) == (1, True)
    assert doubt.key[:12] in shown.stdout
    assert "comfyline resolve" in shown.stdout


def test_what_is_not_collected_yet_is_not_asked_for(office: Office, files: str):
    once = office.sandbox.submit("only once", f"{files}/cat.jpg", sync_mode=True)
    office.sandbox.until(lambda: office.sandbox.status(once)["status"] == "completed")
    office.submitted(asked("only once", item="[bold]cat[/]"), once)

    assert "[bold]cat[/]" in office.comfyline("audit").stdout

    assert office.sandbox.result(once)["output"]["images"][0].startswith("data:")


def test_a_refresh_explains_a_second_charge_and_an_overlap_does_not(office: Office):
    job = asked("made twice")
    office.stored(job, "the-first", at=ago(hours=2))
    office.stored(job, "the-second", run_id="run-2", refresh=True, at=ago(hours=1))

    audit = office.comfyline(*OFFLINE)

    assert (audit.code, audit.json["differences"]) == (0, [])
    [repeat] = audit.json["repeats"]
    assert (repeat["attempt"], "refresh" in repeat["message"]) == (2, True)
    assert len(office.comfyline(*OFFLINE, "--run", "run-2").json["repeats"]) == 1


def test_only_what_is_asked_for_is_audited(office: Office):
    office.submitted(asked("old"), at=ago(days=3))
    new = asked("new", pipeline="another")
    office.submitted(new, run_id="run-2")

    for wanted in (["--since", "2d"], ["--pipeline", "another"], ["--run", "run-2"]):
        audit = office.comfyline(*OFFLINE, *wanted).json
        assert kinds(audit) == [(new.key, "paid-not-stored")]
    assert office.comfyline(*OFFLINE, "--until", "2020-01-01").json["jobs"] == 0
    wrong = office.comfyline("audit", "--offline", "--since", "last week")
    assert (wrong.code, "Not a duration or a date" in wrong.stderr) == (64, True)
