"""What is kept of a job: whatever stands in a name, a path or an answer, but for secrets."""

import json
import math
import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from comfyline.errors import GenerationFailed, Rejected
from comfyline.job import CheckedJob, Job, JobState, Media, Placement
from comfyline.ledger.attempts import Evidence, pack, unpack
from comfyline.ledger.claims import Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.tables import attempts, metadata
from comfyline.pipeline.output_names import output_uris
from comfyline.redact import bare_origin, without_secrets
from tests.ledger.conftest import Desk, asked, output

LATIN_1 = os.fsdecode("Gärten".encode("latin-1"))
ODD = [
    LATIN_1,
    "a\0b",
    "\ud800",
    "\ufdd10000",
    "ж → 🐈",
    "\udcff\udcfe",
    "\\udce4 \\u0000",
    "\x1b[",
]
SIGNED = "https://files.example/cat.jpg?X-Amz-Signature=SECRET&X-Amz-Expires=9"
SHOWN = "https://files.example/cat.jpg"


def media(pointer: tuple[str | int, ...], origin: str) -> Media:
    return Media(pointer, origin, "image", "a" * 64, 12, "image/jpeg")


def there_and_back(job: CheckedJob) -> CheckedJob:
    return unpack(json.loads(json.dumps(pack(job), allow_nan=False)))


@pytest.mark.parametrize("odd", ODD, ids=ascii)
async def test_a_text_that_some_database_does_not_take_stops_nothing(
    odd: str, desk: Desk, ledger: Ledger
):
    placement = Placement(f"/out/{odd}", f"{odd}-{{{{ index }}}}.png", {odd: odd}, root=f"/{odd}")
    prompt = odd.encode("utf-8", "ignore").decode()
    names = {"item": odd, "step": odd, "pipeline": odd, "settings": {odd: [odd]}}
    job = asked(prompt, placement=placement, **names)
    await ledger.open_run("run-1", odd)
    attempt_id = await desk.submitted(job)
    seen = Evidence(how_far=odd, reason=odd)
    error = GenerationFailed(f"{odd} is wrong")
    await ledger.ended(attempt_id, JobState.FAILED, error, evidence=seen)
    [known] = await ledger.list(Selection(pipeline=odd))
    words = odd.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    seen = replace(seen, mark=known.evidence.mark)
    assert (known.checked, known.evidence, known.error_message) == (job, seen, f"{words} is wrong")
    assert (await ledger.summaries([job.key]))[job.key].placement == placement
    assert await ledger.previous_attempts([job]) == [(job, job)]
    rejected = asked("rejected", pipeline=odd)
    await ledger.ended(await desk.submitted(rejected), JobState.FAILED, Rejected("It is black"))
    assert (await desk.known(rejected)).rejections == 1
    limits = Limits(1000, max_cost_usd_per_day=0.9)
    assert await desk.asks(asked("more", pipeline=odd), limits=limits) == "day has 0.5"


async def test_a_file_of_such_a_name_is_found_again_where_the_ledger_says(
    desk: Desk, ledger: Ledger, tmp_path: Path
):
    folder = tmp_path / LATIN_1
    job = asked(placement=Placement(str(folder), f"{LATIN_1}.{{{{ ext }}}}", {}))
    job = replace(job, media=(media(("prompt",), f"/in/{LATIN_1}.jpg"),))
    before = output_uris(job.job.placement, [output()])
    await desk.stored(job, output(before[0]))
    known = await desk.known(job)
    assert known.checked.media == job.media
    assert output_uris(known.placement, known.outputs) == before
    assert await ledger.stored_at(before) == {before[0]: known}


@pytest.mark.parametrize("broken", ["{}", "[]", '{"job": {"item": 3}}', "null"])
async def test_a_broken_row_hides_no_other_and_is_not_made_anew(
    broken: str, desk: Desk, ledger: Ledger
):
    whole, job = asked("whole"), asked("broken")
    await desk.stored(whole)
    await desk.submitted(job)
    values = {"request": json.loads(broken), "evidence": []}
    breaks = update(attempts).where(attempts.c.key == job.key).values(values)
    await ledger.database.run(lambda c: c.execute(breaks))
    listed = {one.checked.key: one for one in await ledger.list()}
    assert listed[whole.key].checked == whole
    damaged = listed[job.key]
    assert (damaged.state, damaged.checked.job.item) == (JobState.SUBMITTED, "cat")
    assert (await ledger.summaries([job.key]))[job.key].placement
    assert await ledger.previous_attempts([whole]) != [None]
    assert await desk.asks(job) == "RESUME"


async def test_a_ledger_with_no_json_in_a_row_is_still_read(tmp_path: Path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}", "here:1")
    await Desk(ledger).submitted(asked())
    breaks = text("UPDATE attempts SET request = '{no json', evidence = ''")
    await ledger.database.run(lambda c: c.execute(breaks))
    assert await Desk(ledger).state(asked()) is JobState.SUBMITTED
    ledger.close()


def with_secrets() -> CheckedJob:
    job = Job(
        pipeline="scenes",
        item=SIGNED,
        step="edit",
        model_id="acme/painter",
        inputs={
            "image_urls": [SIGNED, SIGNED],
            "control": {"layers": [{"mask": SIGNED, "note": f"take {SIGNED} please"}]},
            "undeclared": SIGNED,
            "bucket": "s3://user:SECRET@bucket/cat.jpg",
        },
        placement=Placement("/out", "x.png", {"item": {"url": SIGNED, "n": [SIGNED]}}),
        variant={"like": SIGNED},
        settings={"style": SIGNED},
        source="pipeline.yaml:7",
    )
    parts = media(("image_urls", 0), SIGNED), media(("control", "layers", 0, "mask"), SIGNED)
    return CheckedJob(job, "b" * 64, parts, 0.5)


async def test_no_presigned_query_reaches_the_database_in_any_field(desk: Desk, ledger: Ledger):
    attempt_id = await desk.submitted(with_secrets())
    failure = GenerationFailed(f"{SIGNED} cannot be read", hint=f"Look at {SIGNED}")
    seen = Evidence(reason=f"no answer while {SIGNED} was sent")
    await ledger.ended(attempt_id, JobState.FAILED, failure, evidence=seen)
    [known] = await ledger.list()
    assert known.error_message == f"{SHOWN} cannot be read. Look at {SHOWN}"
    tables = metadata.sorted_tables
    rows = await ledger.database.read(lambda c: [[*c.execute(select(one))] for one in tables])
    assert "SECRET" not in repr(rows)
    assert "files.example" in repr(rows)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (f'see <{SIGNED}>, "{SIGNED}"', f'see <{SHOWN}>, "{SHOWN}"'),
        ("HTTPS://me:SECRET@x.y/z#SECRET", "HTTPS://x.y/z"),
        ("https://x.y/a cat.jpg?X-Amz-Signature=SECRET", "https://x.y/a cat.jpg"),
        ("https://x.y/z?q=a'SECRET", "https://x.y/z"),
        ("is it a cat? yes://no", "is it a cat? yes://no"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
    ],
)
def test_an_address_loses_its_query_and_a_name_keeps_its_question_mark(written: str, kept: str):
    assert without_secrets(written) == kept
    if written.startswith(("http", "HTTP", "s3")):
        assert bare_origin(written) == kept


def test_everything_else_comes_back_as_it_went_in():
    back = there_and_back(with_secrets())
    assert back.job.inputs["image_urls"] == [SHOWN, SHOWN]
    assert back.job.inputs["control"] == {
        "layers": [{"mask": SHOWN, "note": f"take {SHOWN} please"}]
    }
    assert back.job.placement.scope == {"item": {"url": SHOWN, "n": [SHOWN]}}
    assert [part.origin for part in back.media] == [SHOWN, SHOWN]
    assert back.media[1].pointer == ("control", "layers", 0, "mask")
    assert (back.key, back.estimate_usd, back.job.source) == ("b" * 64, 0.5, "pipeline.yaml:7")
    plain = asked("what? a cat", settings={"ratio": "1:1"}, variant=[1, 1.0, True, None])
    assert there_and_back(plain) == plain


def test_what_a_pipeline_accepts_is_kept_and_an_earlier_version_knew_of_none():
    placement = asked().job.placement
    taking = asked(placement=replace(placement, accept=("svg",)))
    assert there_and_back(taking) == taking
    packed = pack(asked())
    assert "accept" not in packed["job"]["placement"], "an earlier version reads the rest"
    assert unpack(packed) == asked()


def test_a_question_mark_in_a_local_path_or_a_folder_belongs_to_its_name():
    placement = Placement("s3://bucket/what?/now", "{{ index }}?.png", {})
    job = asked(inputs={"image": "in/what?.jpg"}, placement=placement)
    job = replace(job, media=(media(("image",), "in/what?.jpg"),))
    assert there_and_back(job) == job


@pytest.mark.parametrize(
    ("value", "kept"),
    [(math.nan, "nan"), (math.inf, "inf"), (date(2026, 1, 2), "2026-01-02"), ((1, 2), [1, 2])],
)
def test_what_json_cannot_say_is_kept_as_text_where_it_is_for_naming_only(value: Any, kept: Any):
    job = asked(placement=Placement("/out", "x", {"item": {"value": value}}), price=math.nan)
    back = there_and_back(job)
    assert back.job.placement.scope == {"item": {"value": kept}}
    assert back.estimate_usd is None


async def test_the_size_of_a_film_of_three_gigabytes_is_kept(desk: Desk):
    film = replace(output("file:///out/film.mp4"), bytes=3 * 1024**3)
    await desk.stored(asked(), film)
    assert (await desk.known(asked())).outputs == (film,)
