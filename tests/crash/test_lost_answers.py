"""Answers that never arrived: nothing is sent again, and a person can end each doubt either way."""

from collections.abc import Callable

from tests.crash.scene import Scene, broken_rules

LOST = (
    {"kind": "drop-after"},
    {"kind": "status", "code": 502, "accept": True},
    {"kind": "html"},
    {"kind": "delay", "seconds": 6},
    {"kind": "truncate"},
)
"""Each accepts the request: dropped, a gateway's error, a page in between, too late, cut short."""

MakeScene = Callable[..., Scene]


def test_a_lost_answer_is_never_a_second_charge(scene: MakeScene) -> None:
    # One after the other, so that each fault meets two jobs that are known.
    here = scene(items=2 * len(LOST), in_flight=1)
    for fault in LOST:
        here.sandbox.order(on="submit", times=2, **fault)

    first = here.ended(here.start_run(mutation="answers are awaited briefly"))
    second = here.run()

    assert [first.code, second.code] == [1, 1], first.log
    assert [first.json["in_doubt"], second.json["in_doubt"]] == [10, 10], first.log
    assert [first.json["submitted"], second.json["submitted"]] == [10, 0]
    assert len(here.requests()) == 10

    doubts = sorted(here.attempts(), key=lambda one: str(one.checked.job.inputs["prompt"]))
    adopted, lost = doubts[::2], doubts[1::2]
    for attempt in adopted:
        prompt = attempt.checked.job.inputs["prompt"]
        [row] = [row for row in here.requests() if row["input"]["prompt"] == prompt]
        answer = here.command("resolve", attempt.checked.key, "--request-id", row["request_id"])
        assert answer.code == 0, answer.log
    for attempt in lost:
        answer = here.command("resolve", attempt.checked.key, "--lost")
        assert answer.code == 0, answer.log
    third = here.run("--set", "limits.in_flight=16")

    assert third.code == 0, third.log
    counts = {name: third.json[name] for name in ("jobs", "persisted", "submitted", "in_doubt")}
    assert counts == {"jobs": 10, "persisted": 10, "submitted": 5, "in_doubt": 0}
    # Only where a person said so was it sent again; that the person was wrong is not ours to know.
    assert broken_rules(here, paid_in_vain=5) == []
