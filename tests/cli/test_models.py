"""`comfyline models` against a real sandbox, and with nobody who answers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyline.cli.main import run
from tests.conftest import EDIT, ROOT, Sandbox, free_port

SAMPLES = json.loads(
    (Path(__file__).parents[1] / "models/catalogue-samples.json").read_text(encoding="utf-8")
)["models"]
BY_ID = {entry["model_id"]: entry for entry in SAMPLES}
WAN = "wan-ai/wan-3.0/image-to-video"
SONG = "acestep-ai/ace-step-1.5/text-to-audio"
"""A model that is in the catalogue and not in the project."""
LOCAL = {
    path.relative_to(ROOT / "configs/models").with_suffix("").as_posix(): json.loads(
        path.read_text(encoding="utf-8")
    )
    for path in (ROOT / "configs/models").rglob("*.json")
}
MANY = 1203
"""More than two pages of the largest size that the API gives."""


@pytest.fixture(scope="module")
def big_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of its own with a catalogue of many pages."""
    folder = tmp_path_factory.mktemp("catalogue")
    entries = [
        {
            "model_id": f"acme/model-{number}",
            "categories": ["text-to-video" if number % 100 == 0 else "text-to-image"],
            "price_unit": "output",
            "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
        }
        for number in range(MANY - len(SAMPLES))
    ]
    for entry in [*entries, *SAMPLES]:
        path = folder / f"{entry['model_id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
    state = tmp_path_factory.mktemp("sandbox") / "state"
    sandbox = Sandbox(state, [folder], slots=1, speed=20).start()
    yield sandbox
    sandbox.close()
    assert "Traceback" not in sandbox.log.read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; what is built in is local all the same."""
    for name in ("RUNCOMFY_API_TOKEN", "RUNCOMFY_TOKEN", "RUNCOMFY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFYLINE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def online(project: Path, big_catalogue: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNCOMFY_BASE_URL", big_catalogue.url)
    monkeypatch.setenv("RUNCOMFY_API_TOKEN", "sandbox-token")
    return project


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        monkeypatch.setattr("comfyline.cli.models._PATIENCE", 0.0)
        monkeypatch.setenv("RUNCOMFY_BASE_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("RUNCOMFY_API_TOKEN", "sandbox-token")

    return go


class Said:
    """What a command wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in out + err


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def models(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(["models", *arguments])
        return Said(code, *capsys.readouterr())

    return models


Models = Callable[..., Said]


def pulled(project: Path, model_id: str) -> Path:
    return project / f"configs/models/{model_id}.json"


@pytest.mark.usefixtures("online")
def test_the_list_holds_every_page_of_the_catalogue_and_what_is_local(models: Models) -> None:
    listed: list[dict[str, Any]] = json.loads(models("list", "--json").out)

    ids = [one["model"] for one in listed]
    assert len(ids) == MANY + len(LOCAL.keys() - BY_ID.keys())
    assert ids == sorted(set(ids))
    assert {one["model"] for one in listed if one["where"] == "local"} == set(LOCAL)
    assert {one["where"] for one in listed if one["model"] not in LOCAL} == {"catalogue"}
    assert EDIT in LOCAL
    assert {one["model"] for one in listed if one["price_usd"] is None} == {EDIT}
    [song] = [one for one in listed if one["model"] == SONG]
    assert song == {
        "model": SONG,
        "categories": ["text-to-audio"],
        "price_usd": 0.002,
        "price_unit": "second",
        "where": "catalogue",
    }


@pytest.mark.usefixtures("online")
def test_the_list_is_searched_by_text_and_by_category(models: Models) -> None:
    found = models("list", "--search", "MODEL-11", "--category", "text-to-video")

    assert [line.split()[0] for line in found.out.splitlines()[1:]] == ["acme/model-1100"]
    assert found.out.splitlines()[1].split()[1:] == [
        "text-to-video", "$0.04", "per", "output", "catalogue",
    ]  # fmt: skip
    assert models("list", "--search", "no such model").err == "No model matches.\n"


@pytest.mark.usefixtures("online")
def test_local_asks_nobody(models: Models, go_offline: Callable[[], None]) -> None:
    go_offline()
    listed = models("list", "--local")

    assert (listed.code, listed.err) == (0, "")
    assert [line.split() for line in listed.out.splitlines()[1:]] == [
        [model_id, *LOCAL[model_id]["categories"], "unknown", "local"] for model_id in sorted(LOCAL)
    ]


def test_without_a_token_the_list_says_what_is_missing_from_it(
    project: Path, models: Models
) -> None:
    listed = models("list")

    assert listed.code == 0
    assert EDIT in listed.out
    assert "RunComfy's catalogue is not included" in listed.err
    assert "RUNCOMFY_API_TOKEN" in listed.err
    assert models("list", "--search", "nothing").code == 77
    assert not (project / "home").exists()


@pytest.mark.usefixtures("online")
def test_show_tells_inputs_limits_price_and_an_example(models: Models) -> None:
    shown = models("show", WAN)

    assert shown.code == 0
    assert "price   $0.08 per second" in shown.out
    row = next(line for line in shown.out.splitlines() if line.startswith("duration"))
    assert row.split() == ["duration", "integer", "2", "to", "30", "5"]
    row = next(line for line in shown.out.splitlines() if line.startswith("image_url"))
    assert row.split() == ["image_url", "picture", "yes"]
    assert f"    model: {WAN}\n" in shown.out
    assert '      image_url: "photo.jpg"\n' in shown.out


@pytest.mark.usefixtures("online")
def test_show_tells_the_limits_of_media_in_runcomfys_words(models: Models) -> None:
    shown = models("show", "bytedance/seedream-5.0-pro/image-to-image")

    words = " ".join(shown.out.split())
    assert "File size must be less than 30 MB" in words
    assert "1 to 10 in the list" in words


def test_what_was_shown_once_is_shown_offline_and_listed_as_cached(
    online: Path, models: Models, go_offline: Callable[[], None]
) -> None:
    assert models("show", SONG).code == 0
    kept = json.loads((online / f"home/models/{SONG}.json").read_text())
    assert kept["input_schema"] == BY_ID[SONG]["input_schema"]

    go_offline()
    shown, listed = models("show", SONG), models("list")

    assert shown.code == 0
    assert "price   unknown" in shown.out
    assert "5 to 240" in shown.out
    rows = {line.split()[0]: line.split()[-1] for line in listed.out.splitlines()[1:]}
    assert rows == {**dict.fromkeys(LOCAL, "local"), SONG: "cached"}


@pytest.mark.usefixtures("project")
def test_without_a_token_what_is_local_is_shown_without_its_price(models: Models) -> None:
    shown = models("show", EDIT)

    assert shown.code == 0
    assert "price   unknown" in shown.out
    assert "because RunComfy cannot be asked" in shown.err


def test_an_unknown_model_is_a_sentence_with_the_nearest_name(online: Path, models: Models) -> None:
    for command in ("show", "pull"):
        said = models(command, "wan-ai/wan-3.0/image-to-vido")

        assert said.code == 65
        assert f"did you mean `{WAN}`?" in said.err
    assert not (online / "configs").exists()


@pytest.mark.usefixtures("project")
def test_an_unknown_model_offline_is_69(models: Models, go_offline: Callable[[], None]) -> None:
    go_offline()
    for command in ("show", "pull"):
        said = models(command, "wan-ai/wan-9")

        assert said.code == 69
        assert "RunComfy cannot be" in said.err
    said = models("show", "google/nano-banana/pro/edti")
    assert f"id you mean `{EDIT}`?" in said.err


@pytest.mark.parametrize("command", ["show", "pull"])
@pytest.mark.usefixtures("project")
def test_what_is_no_model_id_is_65_before_anybody_is_asked(models: Models, command: str) -> None:
    said = models(command, "../../etc/passwd")

    assert said.code == 65
    assert "is not a model id" in said.err


def test_pull_stores_what_runcomfy_publishes(
    online: Path, models: Models, big_catalogue: Sandbox
) -> None:
    ids = [WAN, SONG]

    said = models("pull", *ids)

    assert said.code == 0
    for model_id in ids:
        published = big_catalogue.api.get(f"/v1/models/{model_id}").json()
        text = pulled(online, model_id).read_text()
        assert json.loads(text) == published
        assert text == json.dumps(published, indent=2, ensure_ascii=False) + "\n"
        assert f"configs/models/{model_id}.json: written" in said.err
    rows = models("list", "--local").out
    assert all(f"{model_id} " in rows for model_id in ids)


def test_pull_says_what_changed(online: Path, models: Models) -> None:
    models("pull", WAN)
    assert "is up to date" in models("pull", WAN).err
    path = pulled(online, WAN)
    older = json.loads(path.read_text())
    del older["input_schema"]["properties"]["seed"]
    older["input_schema"]["properties"]["resolution"]["enum"] = ["480p"]
    path.write_text(json.dumps(older))

    said = models("pull", WAN).err

    assert "2 changes" in said
    assert "input_schema.properties.seed is new" in said
    assert '["480p"] → ["480p", "720p", "1080p"]' in said


def test_a_broken_file_is_replaced(online: Path, models: Models) -> None:
    pulled(online, WAN).parent.mkdir(parents=True)
    pulled(online, WAN).write_text("{")

    assert models("pull", WAN).code == 0
    assert json.loads(pulled(online, WAN).read_text())["model_id"] == WAN


def test_of_several_models_the_known_ones_are_pulled_and_all_others_named(
    online: Path, models: Models
) -> None:
    said = models("pull", "acme/none-1", WAN, "acme/none-2")

    assert said.code == 65
    assert "acme/none-1: " in said.err
    assert "acme/none-2: " in said.err
    assert pulled(online, WAN).exists()


@pytest.mark.usefixtures("online")
def test_a_folder_that_cannot_be_written_is_said(online: Path, models: Models) -> None:
    (online / "configs").write_text("a file")

    said = models("pull", WAN)

    assert said.code == 65
    assert "cannot be written" in said.err


@pytest.mark.usefixtures("project")
def test_pull_wants_a_model_and_a_token(models: Models) -> None:
    assert models("pull").code == 64
    assert models("pull", WAN).code == 77
