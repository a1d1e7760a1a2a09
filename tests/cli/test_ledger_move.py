"""`comfyline ledger move`: what it says, and what it refuses."""

import io

import pytest
from sqlalchemy import make_url

from tests.cli.conftest import Office, asked


def test_a_ledger_moves_and_the_old_place_says_where_it_went(
    office: Office, postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.submitted(asked("waiting"), "request-1")
    place = make_url(postgresql_database).set(password="hunter2")
    url = place.render_as_string(hide_password=False)

    # By stdin: a command line is there for all users to read.
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{url}\n"))
    moved = office.comfyline("ledger", "move", "-")
    old = office.comfyline("jobs")
    monkeypatch.setenv("COMFYLINE_LEDGER_URL", url)
    new = office.comfyline("jobs", "--json")
    there_already = office.comfyline("ledger", "move", url)

    assert moved.code == 0, moved.stderr
    assert " jobs 1, " in moved.stderr
    assert " attempts 1, " in moved.stderr
    assert f"/{place.database} is backed up" in moved.stderr
    assert old.code == 69
    assert "moved to postgresql://" in old.stderr
    assert "Set COMFYLINE_LEDGER_URL" in old.stderr
    assert [one["request_id"] for one in new.json] == ["request-1"]
    assert (there_already.code, "already" in there_already.stderr) == (64, True)
    assert "hunter2" not in "".join(one.stderr for one in (moved, old, new, there_already))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "would be in memory"),
        ("my ledger", "should be a database URL"),
        ("mysql://host/name", "cannot be used here"),
        ("postgresql://user@127.0.0.1:9/none", "cannot be used: connection"),
    ],
)
def test_a_place_that_no_ledger_can_go_to_is_named_and_nothing_happens(
    office: Office, url: str, said: str
) -> None:
    office.submitted(asked("waiting"), "request-1")
    refused = office.comfyline("ledger", "move", url)
    assert refused.code in {64, 65, 69}
    assert said in refused.stderr
    assert len(office.attempts()) == 1


def test_where_no_ledger_is_none_is_moved(office: Office) -> None:
    office.submitted(asked("waiting"), "request-1")
    (office.folder / "home/ledger.sqlite3").unlink()
    refused = office.comfyline("ledger", "move", f"sqlite:///{office.folder}/new.sqlite3")
    assert (refused.code, "There is no ledger at" in refused.stderr) == (64, True)
    assert not (office.folder / "new.sqlite3").exists()
