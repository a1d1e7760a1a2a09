"""The pictures, videos and sounds that the sandbox makes, and the ones that it is given."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Sandbox, _Files
from tests.recordings import decoded, mp4, wav

OFFICE = "Change the scene to a modern office, soft daylight, background only."
FILM, SONG, TALK, CUT = "reel/film", "reel/song", "reel/talk", "reel/cut"

TEXT, SECONDS = {"type": "string"}, {"type": ["float", "string"], "default": 5}
SWITCH = {"type": "boolean", "default": False}
SETTINGS = {"prompt": TEXT, "resolution": TEXT, "aspect_ratio": TEXT, "sync_mode": SWITCH}
LONG_ENOUGH = {
    "validation_rule": "duration_seconds>",
    "validation_value": 1.5,
    "validation_error": "A clip must be longer than 1.5 seconds.",
}
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    FILM: ("text-to-video", {**SETTINGS, "duration": SECONDS, "with_audio": SWITCH}),
    SONG: ("text-to-music", {"tags": TEXT, "duration": SECONDS, "output_format": TEXT}),
    TALK: (
        "audio-to-video",
        {**SETTINGS, "image": {"format": "image_uri"}, "voice": {"format": "audio_uri"}},
    ),
    CUT: (
        "video-to-video",
        {**SETTINGS, "video": {"format": "video_uri", "validations": [LONG_ENOUGH]}},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def models(video_models: Path) -> None:
    """Models of moving pictures and sound, added to the running sandbox."""
    for model_id, (category, properties) in ENTRIES.items():
        entry = {
            "model_id": model_id,
            "categories": [category],
            "price_unit": "second",
            "base_price_usd": 0.08,
            "input_schema": {"type": "object", "properties": properties},
        }
        path = video_models / f"{model_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(entry))


@pytest.fixture(scope="module")
def given(files: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Recordings on the file server: whole, silent, cut off, and none at all."""
    folder = tmp_path_factory.mktemp("recordings")
    whole = mp4(folder / "clip.mp4", seconds=2, sound=True).read_bytes()
    _Files.pages |= {
        "/clip.mp4": (200, {}, whole),
        "/silent.mp4": (200, {}, mp4(folder / "silent.mp4", seconds=1).read_bytes()),
        "/half.mp4": (200, {}, whole[: len(whole) // 2]),
        "/voice.wav": (200, {}, wav(1.5)),
        "/list.mp4": (200, {}, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
    }
    return files


def order(sandbox: Sandbox, model: str, **body: Any) -> dict[str, Any]:
    answer = sandbox.api.post(f"/v1/models/{model}", json=body)
    assert answer.status_code == 200, answer.text
    return sandbox.finish(answer.json()["request_id"])


def test_the_same_order_gives_the_same_bytes_and_any_other_one_another_picture(
    sandbox: Sandbox, files: str
):
    cat = f"{files}/cat.jpg"
    first = sandbox.picture(OFFICE, cat)
    assert sandbox.picture(OFFICE, f"{cat}?signed=differently") == first
    two = sandbox.download(sandbox.finish(sandbox.submit(OFFICE, cat, num_images=2)))
    others = [
        two[1],
        sandbox.picture("a beach", cat),
        sandbox.picture(OFFICE, f"{files}/wide.jpg"),
        sandbox.picture(OFFICE, cat, f"{files}/moved.jpg"),
    ]
    assert two[0] == first
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("name", "settings", "size", "extension"),
    [
        ("wide", {"aspect_ratio": "auto"}, (256, 128), "png"),
        # By its EXIF orientation.
        ("turned", {"aspect_ratio": "auto", "output_format": "jpeg"}, (128, 256), "jpg"),
        (
            "wide",
            {"aspect_ratio": "9:16", "resolution": "2K", "output_format": "webp"},
            (288, 512),
            "webp",
        ),
        ("wide", {"aspect_ratio": "21:9", "resolution": "4K"}, (1024, 439), "png"),
    ],
)
def test_ratio_resolution_and_format_are_honoured(
    sandbox: Sandbox,
    files: str,
    name: str,
    settings: dict[str, Any],
    size: tuple[int, int],
    extension: str,
):
    done = sandbox.finish(sandbox.submit(OFFICE, f"{files}/{name}.jpg", **settings))
    url = done["output"]["images"][0]
    assert url.endswith(f"/0.{extension}")
    answer = sandbox.open.get(url)
    assert answer.headers["content-type"] == f"image/{settings.get('output_format', 'png')}"
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    assert (picture.format, picture.size) == (settings.get("output_format", "png").upper(), size)


@pytest.mark.parametrize(
    ("body", "size", "length", "sound"),
    [
        ({"duration": 1, "resolution": "240p", "aspect_ratio": "9:16"}, (240, 426), 1, 0),
        ({"duration": 1.5, "resolution": "200p", "with_audio": True}, (356, 200), 1.5, 1.5),
    ],
)
def test_a_video_has_the_length_the_shape_and_the_sound_that_were_asked_for(
    sandbox: Sandbox, body: dict[str, Any], size: tuple[int, int], length: float, sound: float
):
    done = order(sandbox, FILM, prompt="the city at night", **body)
    assert done["cost"] == pytest.approx(0.08 * length)
    answer = sandbox.open.get(done["output"]["video"])
    assert answer.headers["content-type"] == "video/mp4"
    film = decoded(answer.content)
    assert film.size == size
    assert film.picture_seconds == pytest.approx(length, abs=0.15)
    assert film.sound_seconds == pytest.approx(sound, abs=0.15)


def test_a_sound_has_its_length_and_format(sandbox: Sandbox):
    done = order(sandbox, SONG, tags="calm piano", duration="3s", output_format="wav_44100")
    url = done["output"]["audio"]
    assert url.endswith(".wav")
    answer = sandbox.open.get(url)
    assert answer.headers["content-type"] == "audio/wav"
    sound = decoded(answer.content)
    assert sound.container == "wav"
    assert sound.sound_seconds == pytest.approx(3, abs=0.1)
    assert sound.loudest > 0
    assert done["cost"] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("half.mp4", "video: the file is not a video that can be read"),
        ("list.mp4", "video: the file is not a video that can be read"),
        ("cat.jpg", "video: the file is not a video that can be read"),
        ("voice.wav", "video: the file holds no video"),
        ("silent.mp4", "video: A clip must be longer than 1.5 seconds."),
    ],
)
def test_a_video_that_cannot_be_used_fails_the_request_and_costs_nothing(
    sandbox: Sandbox, given: str, name: str, reason: str
):
    done = order(sandbox, CUT, video=f"{given}/{name}")
    assert (done["status"], done["error"]["message"]) == ("failed", reason)
    assert done["cost"] == 0


def test_the_account_says_when_each_input_was_fetched_and_keeps_no_query(
    sandbox: Sandbox, given: str
):
    urls = {"image": f"{given}/cat.jpg", "voice": f"{given}/voice.wav"}
    signed = {name: f"{url}?X-Amz-Signature=hidden" for name, url in urls.items()}
    done = order(sandbox, TALK, resolution="100p", **signed)
    booked = sandbox.booked(done["request_id"])
    assert set(booked["inputs_fetched_at"]) == set(urls.values())
    moments = booked["inputs_fetched_at"].values()
    assert all(done["created_at"] <= moment <= done["finished_at"] for moment in moments)
    assert "hidden" not in str(booked)
