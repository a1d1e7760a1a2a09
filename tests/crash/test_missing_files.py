"""Stored files that are not where they were: nothing is written off, and nothing bought again."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, update

from comfyline.ledger.tables import attempts
from tests.crash.scene import Ended, Scene, broken_rules, lying

MakeScene = Callable[..., Scene]
MANY = 5


def seven_days_pass(scene: Scene) -> None:
    """At RunComfy and in the ledger; it was asked about hours ago for the last time."""
    for request in scene.requests():
        scene.sandbox.open.post(f"/sandbox/expire/{request['request_id']}").raise_for_status()
    written(scene, submitted_at=ago(days=8), missing_since=ago(hours=9))


def ago(**more: int) -> datetime:
    return datetime.now(UTC) - timedelta(**more)


def written(scene: Scene, **values: Any) -> None:
    engine = create_engine(scene.ledger_url)
    with engine.begin() as ledger:
        ledger.execute(update(attempts).values(**values))
    engine.dispose()


def counts(ended: Ended) -> dict[str, int]:
    names = ("persisted", "reused", "failed", "submitted")
    return {name: ended.json[name] for name in names if ended.json[name]}


@pytest.mark.parametrize(
    "without", ["anything in it", pytest.param("a folder", marks=pytest.mark.thorough)]
)
def test_a_share_that_is_not_mounted_for_a_night_costs_nothing(
    scene: MakeScene, without: str
) -> None:
    here = scene(items=MANY)
    share, unmounted = here.directory / "out", here.directory / "unmounted"
    assert counts(here.run()) == {"persisted": MANY, "submitted": MANY}
    before = lying(here)
    seven_days_pass(here)
    share.rename(unmounted)
    if without == "anything in it":
        share.mkdir()

    night = here.run()

    assert night.code == 69, night.log
    assert counts(night) == {}
    assert {error["kind"] for error in night.json["errors"]} == {"unreachable"}
    assert f"of {MANY} files paid for and stored there, {MANY} are missing" in night.log
    assert here.state() == "persisted"
    assert lying(here) == {}

    shutil.rmtree(share, ignore_errors=True)
    unmounted.rename(share)

    assert counts(here.run()) == {"reused": MANY}
    assert lying(here) == before


def test_a_folder_that_was_emptied_on_purpose_is_filled_again_where_that_is_said(
    scene: MakeScene,
) -> None:
    here = scene(items=MANY)
    here.run()
    before = lying(here)
    shutil.rmtree(here.directory / "out")

    again = here.run("--verify")

    assert counts(again) == {"persisted": MANY}, again.log
    assert lying(here).keys() == before.keys()
    assert broken_rules(here) == []


def test_a_stored_job_whose_file_is_gone_is_told_as_such_and_counts_when_it_is_back(
    scene: MakeScene,
) -> None:
    here = scene(items=2)
    here.run()
    [stored] = [path for path in lying(here) if path.endswith("000-0.jpg")]
    path = here.directory / "out" / stored
    kept = path.with_name("kept")
    path.rename(kept)

    within = here.run()

    assert counts(within) == {"persisted": 1, "reused": 1}, within.log
    assert f"{path.as_uri()} is missing and is fetched again" in within.log

    seven_days_pass(here)
    path.unlink()
    after = here.run()

    assert after.code == 1
    [error] = after.json["errors"]
    assert error["kind"] == "expired"
    assert f"stored as {path.as_uri()}, where it is missing" in error["message"]
    assert "Restore it" in error["hint"]
    assert here.state() == "persisted"

    # What an older version did to every job whose file it did not find.
    written(here, state="expired", error_kind="expired")
    assert here.state() == "expired"
    kept.rename(path)

    assert counts(here.run()) == {"reused": 2}
    assert here.state() == "persisted"
