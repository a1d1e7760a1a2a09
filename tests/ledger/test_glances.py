"""What decides about very many jobs is read in short, and what was asked before in their places."""

from dataclasses import fields, replace

from comfyline.errors import GenerationFailed, Rejected
from comfyline.job import JobState
from comfyline.ledger.attempts import AttemptSummary
from comfyline.ledger.ledger import Ledger
from tests.ledger.conftest import Desk, asked, output


async def test_a_glance_says_the_same_as_the_whole_attempt(desk: Desk, ledger: Ledger):
    stored, running, rejected = asked("stored"), asked("running"), asked("rejected")
    planned, failed = asked("planned"), asked("failed")
    await desk.stored(stored, output("file:///out/0.png"), output("file:///out/1.png", 1))
    await desk.submitted(running)
    for error, job in ((Rejected("blank"), rejected), (GenerationFailed("no"), failed)):
        number = await desk.submitted(job)
        await ledger.completed(number, 0.2)
        await ledger.ended(number, JobState.FAILED, error)
    await ledger.not_sent(await desk.claimed(planned))
    keys = [one.key for one in (stored, running, rejected, planned, failed, asked("unknown"))]

    glances, attempts = await ledger.summaries(keys), await ledger.find(keys)

    names = {field.name for field in fields(AttemptSummary)} - {"packed"} | {"placement"}
    assert glances.keys() == attempts.keys() == set(keys[:-1])
    assert {attempt.state for attempt in attempts.values()} == {
        JobState.PERSISTED,
        JobState.SUBMITTED,
        JobState.FAILED,
        JobState.PLANNED,
    }
    for key, glance in glances.items():
        told = {name: getattr(glance, name) for name in names}
        assert told == {name: getattr(attempts[key], name) for name in names}


async def test_what_was_last_submitted_in_a_place_is_found(desk: Desk, ledger: Ledger):
    here = {"settings": {"ratio": "1:1"}, "part": 1}
    await desk.stored(asked("first", **here), output("file:///out/0.png"))
    await desk.submitted(asked("second", **here))
    await ledger.not_sent(await desk.claimed(asked("never sent", **here)))
    now = asked("now", **here)
    elsewhere = [
        replace(now, job=replace(now.job, **other))
        for other in (
            {"pipeline": "others"},
            {"item": "dog"},
            {"step": "paint"},
            {"settings": {"ratio": "16:9"}},
            {"part": 2},
        )
    ]

    pair, *others = await ledger.previous_attempts([now, *elsewhere])

    assert pair is not None
    assert [one.job.inputs["prompt"] for one in pair] == ["second", "now"]
    assert others == [None] * 5


async def test_a_job_is_compared_without_the_secrets_of_its_addresses(desk: Desk, ledger: Ledger):
    secret = "https://files.test/cat.png?X-Amz-Signature=abc"
    await desk.submitted(asked(secret))

    [pair] = await ledger.previous_attempts([asked(f"{secret}d")])

    assert pair is not None
    assert pair[0].job == pair[1].job
    assert "Signature" not in repr(pair)
