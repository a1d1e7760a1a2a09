"""Only what comfyline has put there, only what is old, and never what somebody still needs."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from comfyline import services
from comfyline.cli import clean
from comfyline.errors import GenerationFailed
from comfyline.job import CheckedJob, JobState
from comfyline.services import open_places
from tests.cli.conftest import CAT, Office, asked

There = Callable[[], set[str]]
WEEK = timedelta(days=8)


@pytest.fixture
def a_week_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def then() -> datetime:
        return services.now() + WEEK

    monkeypatch.setattr(clean, "now", then)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def uploaded(office: Office, *names: str) -> None:
    async def work() -> None:
        async with open_places(office.storage) as places:
            for name in names:
                await places.bucket.put_text("four", f"{office.bucket}/uploads/{name}", "a/b")

    asyncio.run(work())


@pytest.fixture
def there(office: Office, stack_home: Path) -> There:
    """What lies in the folder of uploads, seen from the other side of the storage."""
    folder = stack_home / "storage" / office.bucket.removeprefix("s3://") / "uploads"

    def seen() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    return seen


def with_input(prompt: str, content: str) -> CheckedJob:
    checked = asked(prompt)
    return replace(checked, media=(replace(CAT, sha256=digest(content)),))


@pytest.mark.usefixtures("a_week_later")
def test_what_is_old_goes_and_what_was_not_put_there_stays(office: Office, there: There) -> None:
    own = [f"{digest('a')}.jpg", f"{digest('b')}.mp4"]
    foreign = ["notes.txt", f"{digest('c')}.jpg.bak/x", f"sub/{digest('d')}.jpg", "ABC.jpg"]
    uploaded(office, *own, *foreign)

    young = office.comfyline("clean", "--uploads", "--older-than", "9d", "--json")
    cleaned = office.comfyline("clean", "--uploads", "--json")

    assert (young.code, young.json["uploads"]["found"]) == (0, 0)
    assert cleaned.code == 0
    told = {"found": 2, "removed": 2, "bytes": 8, "needed": 0, "foreign": 4}
    assert cleaned.json == {"uploads": told}
    assert there() == set(foreign)
    assert "2 uploads removed, 0.0 kB; 4 left alone" in cleaned.stderr


@pytest.mark.usefixtures("a_week_later")
def test_nothing_goes_that_was_not_asked_for(office: Office, there: There) -> None:
    uploaded(office, f"{digest('a')}.jpg")
    remembered = office.folder / "home/prefect-client/storage/one"
    remembered.parent.mkdir(parents=True)
    remembered.write_text("{}")

    looked = office.comfyline("clean")
    tried = office.comfyline("clean", "--uploads", "--results", "--dry-run")

    for said in (looked.stderr, tried.stderr):
        assert "1 upload could be removed" in said
        assert "1 remembered result could be removed" in said
    assert "Nothing was removed: say --uploads" in looked.stderr
    assert there() == {f"{digest('a')}.jpg"}
    assert remembered.exists()


@pytest.mark.usefixtures("a_week_later")
def test_what_an_unfinished_job_needs_stays_and_what_a_failed_one_needed_goes(
    office: Office, there: There
) -> None:
    states = ("claimed", "queued", "doubted", "failed")
    uploaded(office, *(f"{digest(state)}.jpg" for state in states))
    office.claimed(with_input("one", "claimed"))
    office.submitted(with_input("two", "queued"))
    office.doubted(with_input("three", "doubted"))
    ended = office.submitted(with_input("four", "failed"))
    office.ledger(lambda one: one.ended(ended, JobState.FAILED, GenerationFailed("no")))

    cleaned = office.comfyline("clean", "--uploads", "--json")

    assert (cleaned.json["uploads"]["removed"], cleaned.json["uploads"]["needed"]) == (1, 3)
    assert there() == {f"{digest(state)}.jpg" for state in states[:3]}


@pytest.mark.usefixtures("a_week_later")
def test_what_may_be_the_copy_that_an_unfinished_job_needs_stays(
    office: Office, there: There
) -> None:
    uploaded(office, f"{digest('its copy')}.jpg", f"{digest('a film')}.mp4")
    checked = with_input("one", "its original")
    converted = replace(checked.media[0], conversion="jpeg")
    office.submitted(replace(checked, media=(converted,)))

    office.comfyline("clean", "--uploads")

    assert there() == {f"{digest('its copy')}.jpg"}


@pytest.mark.usefixtures("a_week_later")
def test_nothing_goes_while_a_run_is_at_work(office: Office, there: There) -> None:
    uploaded(office, f"{digest('a')}.jpg")
    checked = asked("one")
    office.ledger(lambda one: one.acquire(checked.key))

    refused = office.comfyline("clean", "--uploads")

    assert refused.code == 75
    assert "A run is at work" in refused.stderr
    assert there() == {f"{digest('a')}.jpg"}
    assert office.comfyline("clean", "--uploads", "--dry-run").code == 0


@pytest.mark.usefixtures("a_week_later")
def test_remembered_results_and_the_folders_of_what_is_stored_go(office: Office) -> None:
    office.stored(asked("stored"), "request-stored")
    office.submitted(asked("open"), "request-open")
    home = office.folder / "home"
    folders = {name: home / f"work/request-{name}" for name in ("stored", "open", "unknown")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"12345")
    results = home / "prefect-client/storage"
    results.mkdir(parents=True)
    (results / "poll-key-1-request").write_text("{}")

    cleaned = office.comfyline("clean", "--results", "--json").json

    assert (cleaned["remembered_results"]["removed"], cleaned["work_folders"]["removed"]) == (1, 1)
    assert cleaned["work_folders"]["bytes"] == 5
    assert [name for name, folder in folders.items() if folder.exists()] == ["open", "unknown"]
    assert list(results.iterdir()) == []


@pytest.mark.parametrize("written", ["soon", "", "1e400d"])
def test_a_length_of_time_that_is_none_is_a_mistake(office: Office, written: str) -> None:
    assert office.comfyline("clean", "--older-than", written).code == 64


def test_a_new_home_has_nothing_to_clean(office: Office) -> None:
    Path(office.folder / "home/ledger.sqlite3").unlink()

    assert office.comfyline("clean", "--results").code == 0
