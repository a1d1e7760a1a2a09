import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from comfyline.config.account import Account
from comfyline.job import (
    CheckedJob,
    FetchedFile,
    Job,
    JobState,
    Media,
    Placement,
    Pointer,
    StoredOutput,
)
from comfyline.storage.sidecar import sidecar_text

SIGNED = "https://b.s3.amazonaws.com/cat.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature=secret"


def checked(inputs: dict[str, Any], media: tuple[Media, ...] = (), variant: Any = None):
    job = Job(
        pipeline="office",
        item="cat",
        step="edit",
        model_id="google/nano-banana/pro/edit",
        inputs=inputs,
        placement=Placement(folder="out", name="{{ item.stem }}", scope={}),
        variant=variant,
    )
    return CheckedJob(job=job, key="key1", media=media, estimate_usd=None)


def photo(pointer: Pointer, origin: str):
    return Media(pointer, origin, "image", sha256="cafe", bytes=12, media_type="image/jpeg")


def sidecar(job: CheckedJob, output: StoredOutput | FetchedFile | None = None, **changes: Any):
    arguments = {
        "name": "cat-0.png",
        "account": Account("https://model-api.example", "team-a"),
        "request_id": "req-1",
        "attempt": 1,
        "cost_usd": 0.14,
        "estimate_usd": 0.12,
        "outputs": 1,
        "timestamps": {},
    }
    output = output or StoredOutput(0, "s3://o/cat-0.png", "beef", 99, "image/png")
    return sidecar_text(job, output, **(arguments | changes))


def test_it_says_what_made_the_output():
    job = checked({"prompt": "hello ü", "seed": 7}, variant={"take": 2})

    assert json.loads(sidecar(job)) == {
        "job": "key1",
        "pipeline": "office",
        "item": "cat",
        "step": "edit",
        "model": "google/nano-banana/pro/edit",
        "inputs": {"prompt": "hello ü", "seed": 7},
        "variant": {"take": 2},
        "origin": "https://model-api.example",
        "account": "team-a",
        "request_id": "req-1",
        "attempt": 1,
        "cost_usd": 0.14,
        "estimate_usd": 0.12,
        "outputs": 1,
        "timestamps": {},
        "output": {
            "index": 0,
            "name": "cat-0.png",
            "sha256": "beef",
            "bytes": 99,
            "media_type": "image/png",
        },
    }


def test_a_file_not_yet_at_its_place_is_described_without_its_temporary_path():
    text = sidecar(checked({}), FetchedFile(1, "/tmp/part", "beef", 99, "image/png"))  # noqa: S108

    assert json.loads(text)["output"]["index"] == 1
    assert "/tmp" not in text  # noqa: S108


def test_media_stand_as_hash_and_origin_wherever_they_are():
    job = checked(
        {"image_urls": ["cat.jpg", "https://h.net/b.jpg"], "mask": {"url": "m.png"}},
        (photo(("image_urls", 0), "cat.jpg"), photo(("mask", "url"), "m.png")),
    )

    inputs = json.loads(sidecar(job))["inputs"]

    assert inputs["image_urls"] == [
        {"sha256": "cafe", "origin": "cat.jpg", "bytes": 12, "media_type": "image/jpeg"},
        "https://h.net/b.jpg",
    ]
    assert inputs["mask"]["url"]["origin"] == "m.png"


def test_no_query_of_any_url_ever_gets_in():
    job = checked(
        {
            "image_url": SIGNED,
            "lora": [SIGNED, {"deep": "s3://b/a b.bin?X-Amz-Signature=secret"}],
            "prompt": f"like {SIGNED} but blue",
        },
        (photo(("image_url",), SIGNED),),
        variant=SIGNED,
    )

    text = sidecar(job)

    assert "X-Amz-" not in text
    assert "?" not in text
    assert "secret" not in text
    assert json.loads(text)["inputs"]["image_url"]["origin"].endswith("/cat.jpg")


def test_times_are_utc_and_a_time_without_a_zone_is_taken_as_utc():
    paris = timezone(timedelta(hours=1))
    timestamps = {
        JobState.SUBMITTED: datetime(2025, 1, 1, 12, tzinfo=paris),
        JobState.COMPLETED: datetime(2025, 1, 1, 11, 30, tzinfo=UTC).replace(tzinfo=None),
    }

    assert json.loads(sidecar(checked({}), timestamps=timestamps))["timestamps"] == {
        "submitted": "2025-01-01T11:00:00.000Z",
        "completed": "2025-01-01T11:30:00.000Z",
    }


def test_values_that_json_does_not_know_and_broken_file_names_do_not_stop_it():
    job = checked({"day": datetime(2025, 1, 1, tzinfo=UTC), "name": "caf\udce9"})

    assert sidecar(job).encode()


def test_how_large_and_how_long_an_output_is_stands_there_where_it_is_known():
    film = FetchedFile(0, "part", "beef", 99, "video/mp4", width=64, height=36, duration=2.5)

    told = json.loads(sidecar(checked({}), film))["output"]

    assert (told["width"], told["height"], told["duration"]) == (64, 36, 2.5)
    unknown = json.loads(sidecar(checked({})))["output"]
    assert not {"width", "height", "duration"} & unknown.keys()


def test_a_file_of_which_nobody_knows_whose_request_made_it_says_so():
    told = json.loads(sidecar(checked({}), account=None))
    assert told["origin"] is told["account"] is None
