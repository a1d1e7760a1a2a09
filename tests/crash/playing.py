"""One scene: a run is killed, then somebody does what a person does, and looks at what became."""

from dataclasses import dataclass

from tests.crash.circumstances import USUAL, Circumstance
from tests.crash.points import Point
from tests.crash.scene import Ended, Scene, broken_rules, lying


@dataclass(frozen=True, slots=True)
class Played:
    """What is told of a scene: where the job stood, and what was done about it."""

    state: str
    done: str


def play(
    point: Point,
    scene: Scene,
    mutation: str | None = None,
    circumstance: Circumstance = USUAL,
) -> Played:
    """Raises AssertionError for whatever is not as it must be."""
    circumstance.prepare(scene)
    if point.edited:
        first = scene.run()
        assert first.code == 0, first.log
        scene.edit(" with a hat")
    if point.fault:
        scene.sandbox.order(**point.fault)
    before = len(scene.requests())
    killed = scene.start_run(point.at, mutation)
    if point.at is None:
        scene.sandbox.until(lambda: len(scene.requests()) > before, 60)
        killed.kill()
    ended = scene.ended(killed)
    assert ended.code == -9, f"it did not die there but ended with {ended.code}\n{ended.log}"
    scene.sandbox.open.delete("/sandbox/faults")
    state = scene.state()
    circumstance.happen(scene)
    then = circumstance.then or point.then
    again = scene.run() if then == "run" else scene.command("reconcile", "--json")
    done = [_did(again)]
    if point.doubt:
        counts = {name: again.json[name] for name in ("in_doubt", "submitted")}
        assert counts == {"in_doubt": 1, "submitted": 0}, f"{counts}\n{again.log}"
        assert again.code == 1, again.log
        done += scene.resolve()
        again = scene.run()
        done.append(_did(again))
    again = circumstance.settle(scene, again)
    assert again.code == 0, again.log
    assert len(again.json["outputs"]) == (scene.items if then == "run" else 1), again.stdout
    broken = broken_rules(scene) + circumstance.broken(scene)
    assert broken == [], broken
    if point.edited:
        _nothing_moves_the_next_night(scene)
    return Played(state, ", ".join(done))


def _nothing_moves_the_next_night(scene: Scene) -> None:
    """Both prompts are run again, and each finds its own where it lies."""
    there = lying(scene)
    for edited in ("", " with a hat"):
        scene.edit(edited)
        ended = scene.run()
        counts = {name: ended.json[name] for name in ("reused", "submitted", "persisted")}
        assert counts == {"reused": 1, "submitted": 0, "persisted": 0}, f"{counts}\n{ended.log}"
        assert lying(scene) == there


def _did(ended: Ended) -> str:
    said = ended.json
    if said["in_doubt"]:
        return "in doubt"
    if said["reused"]:
        return "reused"
    return "submitted, stored" if said["submitted"] else "collected"
