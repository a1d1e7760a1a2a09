"""Every shape of model runs end to end by its catalogue entry alone: no code knows any of them."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT, Sandbox
from tests.recordings import Decoded, decoded
from tests.shapes.conftest import MODELS, Order

IMAGE, VIDEO, AUDIO = "image", "video", "audio"

ORDERS = [
    Order(
        "google/nano-banana-2-lite/text-to-image",
        {"prompt": "a lighthouse at night", "aspect_ratio": "4:1"},
        kinds=(IMAGE,),
        charge=0.03,
        shape=4,
    ),
    Order(
        "bytedance/seedream-5.0-pro/image-to-image",
        {"prompt": "on a beach", "image": ["photo.jpg", "print.jpg"], "resolution": "1K"},
        kinds=(IMAGE,),
        charge=0.05,
        shape=1,
    ),
    Order(
        "bytedance/seedance-2.5/reference-to-video/1080p",
        {
            "prompt": "a dance",
            "duration": 4,
            "aspect_ratio": "21:9",
            "images": ["photo.jpg"],
            "videos": ["clip.mp4"],
            "audios": ["voice.wav"],
        },
        kinds=(VIDEO,),
        charge=0.48,
        seconds=4,
        shape=21 / 9,
        has_sound=True,
    ),
    Order(
        "wan-ai/wan-3.0/image-to-video",
        {"prompt": "slow push-in", "image_url": "photo.jpg", "duration": 2, "resolution": "480p"},
        kinds=(VIDEO,),
        charge=0.12,
        seconds=2,
        shape=2,
        has_sound=True,
    ),
    Order(
        "acestep-ai/ace-step-1.5/text-to-audio",
        {"tags": "calm, piano", "duration": 5},
        kinds=(AUDIO,),
        charge=0.01,
        seconds=5,
        has_sound=True,
    ),
    # Items in the singular, a plural without a type, rules of unknown names; the price is not told.
    Order(
        "lumen/collage-2/edit",
        {
            "prompt": "in a forest",
            "references": ["photo.jpg", "print.jpg"],
            "masks": ["print.jpg"],
            "num_outputs": 2,
            "seed": None,
        },
        kinds=(IMAGE, IMAGE),
        charge=0.08,
    ),
    # A length in words, a size in pixels, the video deep in the output.
    Order(
        "lumen/clip-1/text-to-video",
        {"prompt": "snow", "duration": "2s", "size": "320x180", "with_audio": True},
        kinds=(VIDEO,),
        charge=0.06,
        seconds=2,
        shape=320 / 180,
        has_sound=True,
    ),
    # The same as data in the answer itself.
    Order(
        "lumen/clip-1/text-to-video",
        {"prompt": "rain", "duration": "2s", "size": "320x180", "sync_mode": True},
        kinds=(VIDEO,),
        charge=0.06,
        seconds=2,
        shape=320 / 180,
    ),
    # Nested objects with media in them, by reference and in arrays; float.
    Order(
        "lumen/stage/compose",
        {
            "prompt": "in a studio",
            "guidance_scale": 3.5,
            "scene": {
                "subject": "photo.jpg",
                "strength": 0.25,
                "props": [{"picture": "print.jpg", "weight": 0.5}],
            },
            "aspect_ratio": "4:3",
        },
        kinds=(IMAGE,),
        charge=0.02,
        shape=4 / 3,
    ),
    # Video in, video and a still out, as long as the input; the price makes no sense.
    Order(
        "lumen/restyle/video-to-video",
        {
            "prompt": "watercolor",
            "video_url": "clip.mp4",
            "style_image": "print.jpg",
            "resolution": "240p",
        },
        kinds=(VIDEO, IMAGE),
        charge=0.16,
        seconds=2,
        has_sound=True,
    ),
    # A picture and a voice become a video that is as long as the voice.
    Order(
        "lumen/talking-head/speak",
        {"image_url": "photo.jpg", "audio_url": "voice.wav", "resolution": "240p"},
        kinds=(VIDEO,),
        charge=0.06,
        seconds=1.5,
        shape=2,
        has_sound=True,
    ),
    # One of several kinds of value, media among them; the file's facts beside its address.
    Order(
        "lumen/voice/text-to-speech",
        {
            "text": "Every picture tells a story, if one listens to it.",
            "voice": {"sample": "voice.wav"},
            "output_format": "wav",
        },
        kinds=(AUDIO,),
        charge=0.01,
        seconds=1.5,
        has_sound=True,
    ),
    # Several videos of one order, priced by the piece.
    Order(
        "lumen/takes/text-to-video",
        {"prompt": "the sea", "num_videos": 2, "duration": 1, "aspect_ratio": "1:1"},
        kinds=(VIDEO, VIDEO),
        charge=0.4,
        seconds=1,
        shape=1,
    ),
]

RunOrders = Callable[[list[Order]], list[dict[str, Any]]]


def entries() -> Iterator[dict[str, Any]]:
    for path in sorted(MODELS.rglob("*.json")):
        yield json.loads(path.read_text())


def named(order: Order) -> str:
    return order.model_id.replace("/", "-") + ("-sync" if order.inputs.get("sync_mode") else "")


@pytest.fixture(scope="module")
def ran(run_orders: RunOrders) -> dict[str, dict[str, Any]]:
    """All orders, run once, side by side."""
    return dict(zip(map(named, ORDERS), run_orders(ORDERS), strict=True))


@pytest.mark.parametrize("order", ORDERS, ids=named)
def test_a_model_runs_by_its_entry_alone(
    order: Order, ran: dict[str, dict[str, Any]], catalogue: Sandbox
) -> None:
    answer = ran[named(order)]
    assert (answer["state"], answer["message"]) == ("Completed", answer["message"]), answer
    summary = answer["summary"]
    assert (summary["persisted"], summary["submitted"], summary["errors"]) == (1, 1, [])
    assert summary["cost_usd"] == pytest.approx(order.charge)

    kinds = [output["media_type"].partition("/")[0] for output in summary["outputs"]]
    assert tuple(kinds) == order.kinds
    for output in summary["outputs"]:
        content = Path(output["uri"].removeprefix("file://")).read_bytes()
        assert len(content) == output["bytes"]
        if output["media_type"].startswith("image/"):
            picture_is_whole(content, order.shape)
        else:
            recording_is_whole(decoded(content), order, output["media_type"])

    booked = [r for r in catalogue.account()["requests"] if r["model_id"] == order.model_id]
    assert pytest.approx(order.charge) in [row["charge_usd"] for row in booked]


def picture_is_whole(content: bytes, shape: float | None) -> None:
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100
        if shape is not None:
            assert picture.width / picture.height == pytest.approx(shape, rel=0.02)


def recording_is_whole(seen: Decoded, order: Order, media_type: str) -> None:
    assert order.seconds is not None
    if media_type.startswith("video/"):
        assert seen.size is not None
        assert seen.picture_seconds == pytest.approx(order.seconds, rel=0.1)
        if order.shape is not None:
            assert seen.size[0] / seen.size[1] == pytest.approx(order.shape, rel=0.02)
    heard = order.seconds if order.has_sound else 0
    assert seen.sound_seconds == pytest.approx(heard, rel=0.1)
    assert (seen.loudest > 0) is order.has_sound


def test_every_entry_here_is_run_and_most_are_unknown_to_the_project() -> None:
    assert {entry["model_id"] for entry in entries()} == {order.model_id for order in ORDERS}
    kept = ROOT / "configs" / "models"
    unknown = [entry for entry in entries() if not (kept / f"{entry['model_id']}.json").exists()]
    # The three others are those of the project's own pipelines.
    assert (len(unknown), len(list(entries()))) == (9, 12)
    packages = [ROOT / name for name in ("comfyline", "flows", "tasks")]
    code = [path.read_text() for package in packages for path in package.rglob("*.py")]
    mentioned = [e["model_id"] for e in entries() if any(e["model_id"] in text for text in code)]
    assert mentioned == []
