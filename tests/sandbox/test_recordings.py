"""The videos and sounds that the sandbox makes, and the ones that it is given."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from comfyline.sandbox.params import how_many, seconds, video_size
from comfyline.sandbox.sound import RATE, chord, sound_format
from comfyline.sandbox.video_generator import frames_per_second
from tests.conftest import Sandbox, _Files
from tests.recordings import decoded, mp4, wav

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
    SONG: (
        "text-to-music",
        {"tags": TEXT, "duration": SECONDS, "output_format": TEXT, "sync_mode": SWITCH},
    ),
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


def content(sandbox: Sandbox, url: str) -> bytes:
    return sandbox.open.get(url).raise_for_status().content


@pytest.mark.parametrize(
    ("body", "size", "length"),
    [
        ({"duration": 2, "resolution": "240p", "aspect_ratio": "16:9"}, (426, 240), 2),
        ({"duration": 1, "resolution": "240p", "aspect_ratio": "9:16"}, (240, 426), 1),
        ({"duration": 1.5, "resolution": "200p", "aspect_ratio": "1:1"}, (200, 200), 1.5),
    ],
)
def test_a_video_has_the_length_and_the_shape_that_were_asked_for(
    sandbox: Sandbox, body: dict[str, Any], size: tuple[int, int], length: float
):
    done = order(sandbox, FILM, prompt="the city at night", **body)
    assert done["cost"] == pytest.approx(0.08 * length)
    answer = sandbox.open.get(done["output"]["video"])
    assert answer.headers["content-type"] == "video/mp4"
    film = decoded(answer.content)
    assert film.size == size
    assert film.picture_seconds == pytest.approx(length, abs=0.15)
    assert film.sound_seconds == 0


def test_a_video_has_sound_when_the_switch_is_on(sandbox: Sandbox):
    done = order(sandbox, FILM, prompt="a beach", duration=1, resolution="200p", with_audio=True)
    film = decoded(content(sandbox, done["output"]["video"]))
    assert film.sound_seconds == pytest.approx(1, abs=0.1)
    assert film.loudest > 0


def test_the_same_order_gives_the_same_video_and_another_prompt_another(sandbox: Sandbox):
    prompts = ("a forest", "a forest", "the snow")
    made = [order(sandbox, FILM, prompt=p, duration=1, resolution="100p") for p in prompts]
    first, again, other = (content(sandbox, done["output"]["video"]) for done in made)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("word", "extension", "media_type"),
    [("mp3", "mp3", "audio/mpeg"), ("wav", "wav", "audio/wav"), ("flac", "flac", "audio/flac")],
)
def test_a_sound_has_its_length_and_format(
    sandbox: Sandbox, word: str, extension: str, media_type: str
):
    done = order(sandbox, SONG, tags="calm piano", duration="3s", output_format=word)
    url = done["output"]["audio"]
    assert url.endswith(f".{extension}")
    answer = sandbox.open.get(url)
    assert answer.headers["content-type"] == media_type
    sound = decoded(answer.content)
    assert sound.container == extension
    assert sound.sound_seconds == pytest.approx(3, abs=0.1)
    assert sound.loudest > 0
    assert done["cost"] == pytest.approx(0.24)


def test_a_talking_head_lasts_as_long_as_its_voice_and_is_charged_for_that(
    sandbox: Sandbox, given: str
):
    inputs = {"image": f"{given}/cat.jpg", "voice": f"{given}/voice.wav"}
    done = order(sandbox, TALK, resolution="100p", **inputs)
    film = decoded(content(sandbox, done["output"]["video"]))
    assert film.size is not None
    assert film.picture_seconds == pytest.approx(1.5, abs=0.15)
    assert film.sound_seconds == pytest.approx(1.5, abs=0.15)
    assert done["cost"] == pytest.approx(0.12)


def test_a_video_becomes_a_video_of_the_same_shape_and_length(sandbox: Sandbox, given: str):
    done = order(sandbox, CUT, video=f"{given}/clip.mp4", resolution="100p")
    film = decoded(content(sandbox, done["output"]["video"]))
    assert film.size == (166, 100)
    assert film.picture_seconds == pytest.approx(2, abs=0.15)
    assert film.sound_seconds > 1.5


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
    done = order(sandbox, CUT, video=f"{given}/{name}?X-Amz-Signature=hidden")
    assert (done["status"], done["error"]["message"]) == ("failed", reason)
    assert done["cost"] == 0


def test_a_video_of_more_than_100_mb_is_not_taken(sandbox: Sandbox, given: str):
    _Files.pages["/huge.mp4"] = (200, {}, bytes(100 * 1024 * 1024 + 1))
    done = order(sandbox, CUT, video=f"{given}/huge.mp4")
    del _Files.pages["/huge.mp4"]
    assert (done["status"], done["error"]["message"]) == ("failed", "video: larger than 100 MB")


def test_a_sound_that_is_none_fails_the_request(sandbox: Sandbox, given: str):
    done = order(sandbox, TALK, image=f"{given}/cat.jpg", voice=f"{given}/silent.mp4")
    assert (done["status"], done["error"]["message"]) == (
        "failed",
        "voice: the file holds no audio",
    )


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


@pytest.mark.parametrize(
    ("model", "key", "begins"),
    [(FILM, "video", "data:video/mp4;base64,"), (SONG, "audio", "data:audio/mpeg;base64,")],
)
def test_sync_mode_hands_recordings_over_as_data(
    sandbox: Sandbox, model: str, key: str, begins: str
):
    body = {"tags": "slow", "duration": 1, "resolution": "100p", "sync_mode": True}
    handed = order(sandbox, model, **body)["output"][key]
    assert handed.startswith(begins)
    assert decoded(base64.b64decode(handed.removeprefix(begins))).container


def test_a_film_that_is_long_or_large_has_fewer_frames():
    usual = frames_per_second((1280, 720), 5)
    assert usual > frames_per_second((1920, 1080), 30) >= 2
    assert frames_per_second((3840, 2160), 600) == 2


@pytest.mark.parametrize("length", [0.01, 1.0, 7.3])
def test_a_chord_lasts_exactly_as_long_as_it_should(length: float):
    samples = b"".join(chord("techno", b"seed", length))
    assert len(samples) == 2 * round(length * RATE)


@pytest.mark.parametrize(
    ("duration", "meant"),
    [(5, 5), (2.5, 2.5), ("5", 5), ("5s", 5), ("10 sec", 10), ("auto", None), (-1, None)],
)
def test_a_duration_is_read_however_it_is_written(duration: Any, meant: float | None):
    assert seconds({"duration": duration}) == meant
    assert seconds({"settings": {"duration": duration}}) == meant


def test_wishes_are_read_under_the_names_that_models_use():
    assert how_many({"num_inference_steps": 30, "num_videos": 3}) == 3
    assert how_many({"num_outputs": True}) == 1
    assert sound_format("mp3_44100_128").extension == "mp3"
    assert video_size({"size": "640*360"}, "m", None) == (640, 360)
    assert video_size({"aspect_ratio": "adaptive"}, "m/480p", (300, 200)) == (720, 480)
    assert video_size({}, "m", None) == (1280, 720)
