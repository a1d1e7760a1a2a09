from dataclasses import replace
from typing import Any

import pytest

from comfyline.errors import Cancelled, GenerationFailed
from comfyline.job import JobState
from comfyline.ledger.ledger import Ledger
from comfyline.storage.place import local_path
from tests.cli.conftest import Office, ago, asked

PRICE = 0.14


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


@pytest.mark.parametrize(
    ("known", "kind"), [(0.5, "charge-differs"), (None, "charge-differs"), (PRICE, None)]
)
def test_a_charge_is_compared_with_what_runcomfy_says_now(
    office: Office, made: str, known: float | None, kind: str | None
):
    job = asked("charged otherwise")
    office.stored(job, made, cost=known)

    assert kinds(office.comfyline("audit", "--json").json) == ([(job.key, kind)] if kind else [])


def test_offline_runcomfy_is_not_asked_and_needs_no_token(
    office: Office, made: str, monkeypatch: pytest.MonkeyPatch
):
    right, unknown = asked("offline"), asked("offline, no cost")
    office.stored(right, made, cost=0.5)
    office.stored(unknown, "another", cost=None)
    monkeypatch.delenv("RUNCOMFY_API_TOKEN")

    audit = office.comfyline("audit", "--offline", "--json").json

    assert kinds(audit) == [(unknown.key, "cost-unknown")]
    assert (audit["asked"], audit["runcomfy_usd"]) == (0, None)


def test_every_way_in_which_files_differ_is_named(office: Office):
    jobs = {name: asked(name) for name in ("gone", "cut", "bare", "foreign", "broken", "taken")}
    files = {}
    for name, job in jobs.items():
        files[name] = office.stored(job, f"request-{name}", name.encode())
    paths = {name: local_path(output.uri) for name, output in files.items()}
    sidecars = {name: path.with_name(f"{path.name}.json") for name, path in paths.items()}
    paths["gone"].unlink()
    paths["cut"].write_bytes(b"")
    sidecars["bare"].unlink()
    sidecars["foreign"].write_text(sidecars["cut"].read_text())
    sidecars["broken"].write_text("{")
    sidecars["taken"].write_text(sidecars["taken"].read_text().replace("request-", "another-"))

    audit = office.comfyline("audit", "--offline", "--json")

    assert audit.code == 1
    assert sorted(kinds(audit.json)) == sorted(
        [
            (jobs["gone"].key, "file-missing"),
            (jobs["cut"].key, "file-changed"),
            (jobs["bare"].key, "sidecar-missing"),
            (jobs["foreign"].key, "sidecar-differs"),
            (jobs["broken"].key, "file-unreadable"),
            (jobs["taken"].key, "sidecar-differs"),
        ]
    )
    assert {one["uri"] for one in audit.json["differences"]} == {one.uri for one in files.values()}


def test_money_without_a_file_is_named(office: Office):
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

    audit = office.comfyline("audit", "--offline", "--json").json

    assert kinds(audit) == [
        (waiting.key, "paid-not-stored"),
        (doubt.key, "in-doubt"),
        (failed.key, "charged-for-nothing"),
        (lost.key, "paid-not-stored"),
    ]
    assert audit["in_doubt"] == 1


def test_what_is_not_collected_yet_is_not_asked_for(office: Office, files: str):
    once = office.sandbox.submit("only once", f"{files}/cat.jpg", sync_mode=True)
    office.sandbox.until(lambda: office.sandbox.status(once)["status"] == "completed")
    office.submitted(asked("only once"), once)

    office.comfyline("audit")

    assert office.sandbox.result(once)["output"]["images"][0].startswith("data:")


def test_a_refresh_explains_a_second_charge_and_an_overlap_does_not(office: Office):
    job = asked("made twice")
    office.stored(job, "the-first", at=ago(hours=2))
    office.stored(job, "the-second", run_id="run-2", refresh=True, at=ago(hours=1))

    audit = office.comfyline("audit", "--offline", "--json")

    assert (audit.code, audit.json["differences"]) == (0, [])
    [repeat] = audit.json["repeats"]
    assert (repeat["attempt"], "refresh" in repeat["message"]) == (2, True)
    only = office.comfyline("audit", "--offline", "--json", "--run", "run-2").json
    assert len(only["repeats"]) == 1


def test_only_what_is_asked_for_is_audited(office: Office):
    office.submitted(asked("old"), at=ago(days=3))
    new = asked("new", pipeline="another")
    office.submitted(new, run_id="run-2")

    for wanted in (["--since", "2d"], ["--pipeline", "another"], ["--run", "run-2"]):
        audit = office.comfyline("audit", "--offline", "--json", *wanted).json
        assert kinds(audit) == [(new.key, "paid-not-stored")]
    early = office.comfyline("audit", "--offline", "--json", "--until", "2020-01-01").json
    assert early["jobs"] == 0
    wrong = office.comfyline("audit", "--offline", "--since", "last week")
    assert (wrong.code, "Not a duration or a date" in wrong.stderr) == (64, True)


def test_the_table_names_the_job_and_what_to_do(office: Office):
    job = asked("for people", item="[bold]cat[/]")
    office.doubted(replace(job))

    said = office.comfyline("audit", "--offline")

    assert said.code == 1
    assert job.key[:12] in said.stdout
    assert "[bold]cat[/]" in said.stdout
    assert "comfyline resolve" in said.stdout
    assert "1 difference." in said.stderr
