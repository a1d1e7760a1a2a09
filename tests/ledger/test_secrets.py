"""What goes into the database holds no permission to fetch anything."""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, select

from comfyline.errors import GenerationFailed
from comfyline.job import CheckedJob, Job, JobState, Media, Placement
from comfyline.ledger.attempts import Evidence, pack, unpack
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.tables import metadata
from comfyline.redact import bare_origin, without_secrets
from tests.ledger.conftest import Desk, asked

SIGNED = "https://files.example/cat.jpg?X-Amz-Signature=SECRET&X-Amz-Expires=9"


def media(pointer: tuple[str | int, ...], origin: str) -> Media:
    return Media(pointer, origin, "image", "a" * 64, 12, "image/jpeg")


def all_that_is_written(url: str) -> str:
    """Every row of every table; of a file, its every byte."""
    if url.startswith("sqlite"):
        directory = Path(url.removeprefix("sqlite:///")).parent
        return "".join(path.read_bytes().decode("latin-1") for path in directory.iterdir())
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        rows = [
            row for table in metadata.sorted_tables for row in connection.execute(select(table))
        ]
    engine.dispose()
    return repr(rows)


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
        placement=Placement(
            "/out", "{{ item.stem }}.png", {"item": {"url": SIGNED, "n": [SIGNED]}}
        ),
        variant={"like": SIGNED},
        settings={"style": SIGNED},
        source="pipeline.yaml:7",
    )
    parts = media(("image_urls", 0), SIGNED), media(("control", "layers", 0, "mask"), SIGNED)
    return CheckedJob(job, "b" * 64, parts, 0.5)


async def test_no_presigned_query_reaches_the_database_in_any_field(
    desk: Desk, ledger: Ledger, url: str
):
    attempt_id = await desk.submitted(with_secrets())
    failure = GenerationFailed(f"{SIGNED} cannot be read", hint=f"Look at {SIGNED}")
    seen = Evidence(reason=f"no answer while {SIGNED} was sent")
    await ledger.ended(attempt_id, JobState.FAILED, failure, evidence=seen)
    [known] = await ledger.list()
    assert known.error_message == (
        "https://files.example/cat.jpg cannot be read. Look at https://files.example/cat.jpg"
    )
    ledger.close()
    written = all_that_is_written(url)
    assert "SECRET" not in written
    assert "files.example" in written


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (SIGNED, "https://files.example/cat.jpg"),
        (
            f'see <{SIGNED}>, "{SIGNED}"',
            'see <https://files.example/cat.jpg>, "https://files.example/cat.jpg"',
        ),
        ("HTTPS://me:SECRET@x.y/z#SECRET", "HTTPS://x.y/z"),
        ("https://x.y/a cat.jpg?X-Amz-Signature=SECRET", "https://x.y/a cat.jpg"),
        ("https://x.y/z?q=a'SECRET", "https://x.y/z"),
        ("is it a cat? yes://no", "is it a cat? yes://no"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ("in/what?.jpg", "in/what?.jpg"),
    ],
)
def test_an_address_loses_its_query_and_a_name_keeps_its_question_mark(written: str, kept: str):
    assert "SECRET" not in without_secrets(written)
    assert without_secrets(written) == kept
    if written.startswith(("http", "HTTP", "s3", "in/")):
        assert bare_origin(written) == kept


def test_everything_else_comes_back_as_it_went_in():
    shown = "https://files.example/cat.jpg"
    back = unpack(json.loads(json.dumps(pack(with_secrets()))))
    assert back.job.inputs["image_urls"] == [shown, shown]
    assert back.job.inputs["control"] == {
        "layers": [{"mask": shown, "note": f"take {shown} please"}]
    }
    assert back.job.placement.scope == {"item": {"url": shown, "n": [shown]}}
    assert [part.origin for part in back.media] == [shown, shown]
    assert back.media[1].pointer == ("control", "layers", 0, "mask")
    assert (back.key, back.estimate_usd, back.job.source) == ("b" * 64, 0.5, "pipeline.yaml:7")


def test_a_job_without_addresses_is_unpacked_as_it_was():
    job = asked("what? a cat", settings={"ratio": "1:1"}, variant=[1, 1.0, True, None])
    assert unpack(json.loads(json.dumps(pack(job)))) == job


def test_what_a_pipeline_accepts_is_kept_and_an_earlier_version_knew_of_none():
    packed = pack(asked("a cat"))
    taking = json.loads(json.dumps(packed))
    taking["job"]["placement"]["accept"] = ["svg"]

    assert "accept" not in packed["job"]["placement"], "an earlier version reads the rest"
    assert unpack(taking).job.placement.accept == ("svg",)
    assert unpack(packed) == asked("a cat")


def test_a_question_mark_in_a_local_path_or_a_folder_belongs_to_its_name():
    job = asked(
        inputs={"image": "in/what?.jpg"},
        placement=Placement("s3://bucket/what?/now", "{{ index }}?.png", {}),
    )
    checked = CheckedJob(job.job, job.key, (media(("image",), "in/what?.jpg"),), None)
    back = unpack(pack(checked))
    assert back.media[0].origin == back.job.inputs["image"] == "in/what?.jpg"
    assert back.job.placement == job.job.placement


@pytest.mark.parametrize(
    ("value", "kept"),
    [(math.nan, "nan"), (math.inf, "inf"), (date(2026, 1, 2), "2026-01-02"), ((1, 2), [1, 2])],
)
def test_what_json_cannot_say_is_kept_as_text_where_it_is_for_naming_only(value: Any, kept: Any):
    job = asked(placement=Placement("/out", "x", {"item": {"value": value}}), price=math.nan)
    packed = pack(job)
    json.dumps(packed, allow_nan=False)
    assert packed["job"]["placement"]["scope"] == {"item": {"value": kept}}
    assert packed["estimate_usd"] is None
