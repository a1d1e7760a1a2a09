"""What else may be the matter when a process has died: beside the points, some of each.

Each begins as usual, changes one thing about the world, and ends well all the same: one charge for
each picture, every picture stored byte for byte, nothing lost by one bad answer or a bad day.
"""

import shutil
import subprocess
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import create_engine, make_url, select, update

from comfyline.job import JobState
from comfyline.ledger.tables import attempts
from tests.conftest import Sandbox
from tests.crash.breaks import Break
from tests.crash.scene import Ended, Scene
from tests.small_disk import small_disk

GATEWAY = {"kind": "status", "code": 404, "body": {"detail": "Not Found"}}
"""What a gateway says during a deployment, and RunComfy does not mean."""


class Circumstance:
    """Nothing is the matter. `more` is how the scene is made, `then` what follows the death."""

    name = ""
    more: dict[str, Any] = {}  # noqa: RUF012  # replaced, never changed
    then: Literal["run", "reconcile"] | None = None
    needs_postgresql = False

    def around(self, scene: Scene) -> AbstractContextManager[Any]:
        """What there is for as long as the scene is played."""
        del scene
        return nullcontext()

    def prepare(self, scene: Scene) -> None:
        """Before the run that will be killed."""

    def happen(self, scene: Scene) -> None:
        """Between its death and the next command."""

    def settle(self, scene: Scene, again: Ended) -> Ended:
        """What the next command must have said, and how it all ends; its end."""
        del scene
        return again

    def broken(self, scene: Scene) -> list[str]:
        """What does not hold in the end, beside the rules for every scene."""
        return [
            f"{one.request_id} was taken for expired"
            for one in scene.all_attempts()
            if JobState.EXPIRED in one.reached
        ]


USUAL = Circumstance()


class Elsewhere(Circumstance):
    """The same home was used at another RunComfy before, where the same pictures were asked for."""

    def __init__(self, name: str, dies_at: Break | None) -> None:
        self.name, self._dies_at = f"elsewhere {name}", dies_at

    def prepare(self, scene: Scene) -> None:
        scene.environment["RUNCOMFY_BASE_URL"] = scene.servers.elsewhere.url
        run = scene.start_run(self._dies_at, None, "--set", "output.to=elsewhere")
        ended = scene.ended(run)
        assert ended.code == (-9 if self._dies_at else 0), ended.log
        assert len(scene.requests(scene.servers.elsewhere)) == 1
        del scene.environment["RUNCOMFY_BASE_URL"]

    def broken(self, scene: Scene) -> list[str]:
        broken = [*super().broken(scene), *self._asked_at_the_wrong_place(scene)]
        scene.environment["RUNCOMFY_BASE_URL"] = scene.servers.elsewhere.url
        collected = scene.command("reconcile", "--json")
        requests = scene.requests(scene.servers.elsewhere)
        [attempt] = [
            one for one in scene.all_attempts() if one.request_id == requests[0]["request_id"]
        ]
        if (collected.code, len(requests), attempt.state) != (0, 1, JobState.PERSISTED):
            broken.append(f"elsewhere are {requests}, {attempt.state}\n{collected.log}")
        return broken

    def _asked_at_the_wrong_place(self, scene: Scene) -> list[str]:
        here, there = scene.sandbox, scene.servers.elsewhere
        places: tuple[tuple[Sandbox, Sandbox], ...] = ((here, there), (there, here))
        return [
            f"{row['request_id']} was asked for at {asked.url}"
            for owner, asked in places
            for row in scene.requests(owner)
            if row["request_id"] in asked.log.read_text()
        ]


class NotKnownNow(Circumstance):
    """RunComfy, or what stands before it, does not know a request of ten minutes ago for a moment.

    Without `times` it does not know it for the whole of the next run.
    """

    def __init__(self, at: str, times: int | None = None) -> None:
        self.name = f"404 at {at}" + ("" if times else " throughout")
        self._fault = {"on": at, "times": times or 100_000, **GATEWAY}
        self._is_over = times is not None
        self.more = {} if times else {"patience": "2s"}

    def happen(self, scene: Scene) -> None:
        _make_older(scene.ledger_url, timedelta(minutes=10))
        scene.sandbox.order(**self._fault)

    def settle(self, scene: Scene, again: Ended) -> Ended:
        if self._is_over:
            return again
        assert again.code != 0, again.log
        assert again.json["failed"] == 0, again.log
        assert "reconcile" in again.log
        assert scene.state() != JobState.EXPIRED
        scene.sandbox.open.delete("/sandbox/faults")
        return scene.command("reconcile", "--json")


def _make_older(ledger_url: str, by: timedelta) -> None:
    """Lets what is at RunComfy have been submitted earlier."""
    engine = create_engine(make_url(ledger_url))
    with engine.begin() as ledger:
        for row in ledger.execute(select(attempts.c.id, attempts.c.submitted_at)).all():
            if row.submitted_at is not None:
                older = update(attempts).where(attempts.c.id == row.id)
                ledger.execute(older.values(submitted_at=row.submitted_at - by))
    engine.dispose()


class Unmounted(Circumstance):
    """The share with the outputs is not mounted for one run; RunComfy has none of them any more."""

    name = "share not mounted"
    more = {"items": 3, "to": "share/out"}  # noqa: RUF012  # replaced, never changed
    then = "run"

    def prepare(self, scene: Scene) -> None:
        stored = scene.run("--limit", "2")
        assert (stored.code, stored.json["persisted"]) == (0, 2), stored.log
        for row in scene.requests():
            scene.expire(row["request_id"])

    def happen(self, scene: Scene) -> None:
        share = scene.directory / "share"
        share.rename(share.with_name("share elsewhere"))
        share.mkdir()

    def settle(self, scene: Scene, again: Ended) -> Ended:
        assert again.code != 0, again.log
        assert len(scene.requests()) <= scene.items
        share = scene.directory / "share"
        # What lies where a share is mounted is not seen any more.
        shutil.rmtree(share)
        share.with_name("share elsewhere").rename(share)
        settled = scene.run()
        assert settled.json["reused"] >= 2, settled.log
        return settled


class Restored(Circumstance):
    """The ledger is a copy of before the run; what lies beside it is of today."""

    name = "ledger restored"
    then = "run"

    def prepare(self, scene: Scene) -> None:
        shutil.copyfile(self._ledger(scene), scene.home / "backup")

    def happen(self, scene: Scene) -> None:
        ledger = self._ledger(scene)
        for file in ledger.parent.glob(f"{ledger.name}*"):
            file.unlink()
        (scene.home / "backup").rename(ledger)

    def settle(self, scene: Scene, again: Ended) -> Ended:
        assert again.json["submitted"] == 0, again.log
        assert len(scene.requests()) == 1
        return again

    def _ledger(self, scene: Scene) -> Path:
        return Path(str(make_url(scene.ledger_url).database))


class FullDisk(Circumstance):
    """The disk on which results lie for a moment, or for good, has room for none of them."""

    def __init__(self, name: str, where: str) -> None:
        self.name, self._where = f"no room in {name}", where

    def around(self, scene: Scene) -> AbstractContextManager[Any]:
        return small_disk(scene.directory / self._where, "4k")

    def settle(self, scene: Scene, again: Ended) -> Ended:
        assert again.code == 69, again.log
        assert "is full" in again.log
        assert scene.state() == JobState.COMPLETED
        larger = ["mount", "-o", "remount,size=256m", str(scene.directory / self._where)]
        subprocess.run(larger, check=True)
        return scene.run()


class WrongClock(Circumstance):
    """The clock of the machine on which it goes on is wrong, and the ledger's is right.

    Its request takes its time, so that there is something to be waited for.
    """

    needs_postgresql = True

    def __init__(self, name: str, hours: float) -> None:
        self.name, self._hours = f"clock {name}", hours

    def prepare(self, scene: Scene) -> None:
        scene.sandbox.order(on="generation", kind="delay", seconds=7)

    def happen(self, scene: Scene) -> None:
        scene.changes = (("tests.crash.clocks:ahead", self._hours * 3600),)


_ACCEPTED = Break("committed", "comfyline.ledger.writes:accept")

CASES: list[tuple[Circumstance, list[str]]] = [
    (
        Elsewhere("under way", _ACCEPTED),
        ["claim: committed", "accepted: committed", "download: half"],
    ),
    (Elsewhere("stored", None), ["survey done", "persisted: before the commit"]),
    (
        NotKnownNow("status", times=3),
        ["accepted: committed", "poll: first status", "in_progress: committed"],
    ),
    (NotKnownNow("status"), ["accepted: committed"]),
    (
        NotKnownNow("result", times=3),
        ["accepted: committed", "completed: committed", "result: half written down"],
    ),
    (NotKnownNow("result"), ["completed: committed"]),
    (
        Unmounted(),
        ["survey done", "accepted: committed", "sidecar: done"],
    ),
    (
        Restored(),
        [
            "poll: first status",
            "download: half",
            "sidecar: done",
            "hold released: committed",
            "s3: persisted: committed",
        ],
    ),
    (FullDisk("the work folder", "home/work"), ["accepted: committed", "completed: committed"]),
    (FullDisk("the output folder", "out"), ["accepted: committed", "fetch: decoded"]),
    (
        WrongClock("ahead", 1),
        ["POST: answer understood", "accepted: committed", "in_progress: committed"],
    ),
    (WrongClock("behind", -1), ["accepted: committed"]),
]
"""Each with the points at which a run dies under it."""
