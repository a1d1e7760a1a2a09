import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from comfyline.config.account import Account
from comfyline.job import CheckedJob, Job, JobState, Media, Placement, Pointer, StoredOutput
from comfyline.storage.sidecar import sidecar_text

SIGNED = "https://b.s3.amazonaws.com/cat.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature=secret"
FILE = StoredOutput(0, "file:///shelf/cat-0.png", "beef", 99, "image/png")


def photo(pointer: Pointer, origin: str) -> Media:
    return Media(pointer, origin, "image", sha256="cafe", bytes=12, media_type="image/jpeg")


def sidecar(
    inputs: dict[str, Any],
    *media: Media,
    variant: Any = None,
    output: StoredOutput = FILE,
    **changes: Any,
) -> dict[str, Any]:
    job = Job("office", "cat", "edit", "acme/edit", inputs, Placement("out", "x", {}), variant)
    arguments = {
        "account": Account("https://model-api.example", "team-a"), "request_id": "req-1",
        "attempt": 1, "cost_usd": 0.14, "estimate_usd": 0.12, "outputs": 1,
        "timestamps": {},
    }  # fmt: skip
    text = sidecar_text(CheckedJob(job, "key1", media, None), output, **(arguments | changes))
    assert "X-Amz-" not in text
    assert "/shelf" not in text
    text.encode()
    told: dict[str, Any] = json.loads(text)
    return told


def test_it_says_what_made_the_output():
    file = {"index": 0, "name": "cat-0.png", "sha256": "beef", "bytes": 99}
    file["media_type"] = "image/png"
    known = {
        "job": "key1", "pipeline": "office", "item": "cat", "step": "edit", "model": "acme/edit",
        "inputs": {"prompt": "hello ü", "seed": 7}, "variant": {"take": 2},
        "origin": "https://model-api.example", "account": "team-a", "request_id": "req-1",
        "attempt": 1, "cost_usd": 0.14, "estimate_usd": 0.12, "outputs": 1, "timestamps": {},
        "output": file,
    }  # fmt: skip
    inputs = {"prompt": "hello ü", "seed": 7}

    assert sidecar(inputs, variant={"take": 2}) == known
    # Of which nobody knows whose request made it, and how large it is.
    nobodys = sidecar(inputs, variant={"take": 2}, account=None, rejected="It is blank")
    assert nobodys == known | {"origin": None, "account": None, "rejected": "It is blank"}
    film = replace(FILE, width=64, height=36, duration=2.5)
    assert sidecar(inputs, output=film)["output"] == {
        **file, "width": 64, "height": 36, "duration": 2.5
    }  # fmt: skip


def test_media_stand_as_hash_and_origin_wherever_they_are():
    inputs = {"image_urls": ["cat.jpg", "https://h.net/b.jpg"], "mask": {"url": "m.png"}}

    told = sidecar(inputs, photo(("image_urls", 0), "cat.jpg"), photo(("mask", "url"), "m.png"))

    assert told["inputs"]["image_urls"] == [
        {"sha256": "cafe", "origin": "cat.jpg", "bytes": 12, "media_type": "image/jpeg"},
        "https://h.net/b.jpg",
    ]
    assert told["inputs"]["mask"]["url"]["origin"] == "m.png"


def test_no_query_of_any_url_ever_gets_in_and_no_value_stops_it():
    inputs = {
        "image_url": SIGNED,
        "lora": [SIGNED, {"deep": "s3://b/a b.bin?X-Amz-Signature=secret"}],
        "prompt": f"like {SIGNED} but blue",
        "day": datetime(2025, 1, 1, tzinfo=UTC),
        "name": "caf\udce9",
    }

    told = sidecar(inputs, photo(("image_url",), SIGNED), variant=SIGNED)

    assert "?" not in json.dumps(told).replace("caf?", "")
    assert "secret" not in json.dumps(told)
    assert told["inputs"]["image_url"]["origin"].endswith("/cat.jpg")


def test_times_are_utc_and_a_time_without_a_zone_is_taken_as_utc():
    paris = timezone(timedelta(hours=1))
    timestamps = {
        JobState.SUBMITTED: datetime(2025, 1, 1, 12, tzinfo=paris),
        JobState.COMPLETED: datetime(2025, 1, 1, 11, 30, tzinfo=UTC).replace(tzinfo=None),
    }

    assert sidecar({}, timestamps=timestamps)["timestamps"] == {
        "submitted": "2025-01-01T11:00:00.000Z",
        "completed": "2025-01-01T11:30:00.000Z",
    }
