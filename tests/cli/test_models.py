"""`comfyline models` against a real sandbox, and with nobody who answers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Comfyline
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


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of its own with RunComfy's samples and some models more."""
    folder = tmp_path_factory.mktemp("catalogue")
    more = [
        {
            "model_id": f"acme/model-{number}",
            "categories": ["text-to-video" if number == 2 else "text-to-image"],
            "price_unit": "output",
            "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
        }
        for number in range(4)
    ]
    for entry in [*more, *SAMPLES]:
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
def online(project: Path, catalogue: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNCOMFY_BASE_URL", catalogue.url)
    monkeypatch.setenv("RUNCOMFY_API_TOKEN", "sandbox-token")
    return project


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        monkeypatch.setattr("comfyline.cli.models._PATIENCE", 0.0)
        monkeypatch.setenv("RUNCOMFY_BASE_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("RUNCOMFY_API_TOKEN", "sandbox-token")

    return go


def pulled(project: Path, model_id: str) -> Path:
    return project / f"configs/models/{model_id}.json"


def rows(stdout: str) -> dict[str, list[str]]:
    """The lines of a table below its head, by their first word."""
    return {line.split()[0]: line.split()[1:] for line in stdout.splitlines()[1:]}


@pytest.mark.usefixtures("online")
def test_the_list_holds_the_catalogue_and_what_is_local_and_is_searched(
    comfyline: Comfyline,
) -> None:
    listed: list[dict[str, Any]] = comfyline("models", "list", "--json").json

    where = {one["model"]: one["where"] for one in listed}
    acme = [f"acme/model-{number}" for number in range(4)]
    assert list(where) == sorted({*LOCAL, *BY_ID, *acme})
    assert where == {model: "local" if model in LOCAL else "catalogue" for model in where}
    assert {one["model"] for one in listed if one["price_usd"] is None} == {EDIT}
    [song] = [one for one in listed if one["model"] == SONG]
    assert song == {
        "model": SONG,
        "categories": ["text-to-audio"],
        "price_usd": 0.002,
        "price_unit": "second",
        "where": "catalogue",
    }
    found = comfyline("models", "list", "--search", "MODEL-", "--category", "text-to-video")
    row = ["text-to-video", "$0.04", "per", "output", "catalogue"]
    assert rows(found.stdout) == {"acme/model-2": row}
    assert comfyline("models", "list", "--search", "no such").stderr == "No model matches.\n"


@pytest.mark.usefixtures("online")
def test_local_asks_nobody(comfyline: Comfyline, go_offline: Callable[[], None]) -> None:
    go_offline()
    listed = comfyline("models", "list", "--local")

    assert (listed.code, listed.stderr) == (0, "")
    assert rows(listed.stdout) == {
        model_id: [*entry["categories"], "unknown", "local"] for model_id, entry in LOCAL.items()
    }


def test_without_a_token_what_is_local_is_told_and_what_is_missing(
    project: Path, comfyline: Comfyline
) -> None:
    listed = comfyline("models", "list")

    assert listed.code == 0
    assert EDIT in listed.stdout
    assert "RunComfy's catalogue is not included" in listed.stderr
    assert "RUNCOMFY_API_TOKEN" in listed.stderr
    assert comfyline("models", "list", "--search", "nothing").code == 77
    assert not (project / "home").exists()
    shown = comfyline("models", "show", EDIT)
    assert shown.code == 0
    assert "price   unknown" in shown.stdout
    assert "because RunComfy cannot be asked" in shown.stderr


@pytest.mark.usefixtures("online")
def test_show_tells_inputs_limits_price_and_an_example(comfyline: Comfyline) -> None:
    shown = comfyline("models", "show", WAN)

    assert shown.code == 0
    assert "price   $0.08 per second" in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["duration", "integer", "2", "to", "30", "5"] in lines
    assert ["image_url", "picture", "yes"] in lines
    assert f"    model: {WAN}\n" in shown.stdout
    assert '      image_url: "photo.jpg"\n' in shown.stdout


def test_what_was_shown_once_is_shown_offline_and_listed_as_cached(
    online: Path, comfyline: Comfyline, go_offline: Callable[[], None]
) -> None:
    assert comfyline("models", "show", SONG).code == 0
    kept = json.loads((online / f"home/models/{SONG}.json").read_text())
    assert kept["input_schema"] == BY_ID[SONG]["input_schema"]

    go_offline()
    shown, listed = comfyline("models", "show", SONG), comfyline("models", "list")

    assert shown.code == 0
    assert "price   unknown" in shown.stdout
    assert "5 to 240" in shown.stdout
    where = {model: row[-1] for model, row in rows(listed.stdout).items()}
    assert where == {**dict.fromkeys(LOCAL, "local"), SONG: "cached"}


@pytest.mark.parametrize("command", ["show", "pull"])
def test_a_model_that_there_is_not_is_said_with_the_nearest_name(
    online: Path, comfyline: Comfyline, command: str, go_offline: Callable[[], None]
) -> None:
    unknown = comfyline("models", command, "wan-ai/wan-3.0/image-to-vido")
    assert (unknown.code, f"did you mean `{WAN}`?" in unknown.stderr) == (65, True)
    assert not (online / "configs").exists()

    go_offline()
    away = comfyline("models", command, "google/nano-banana/pro/edti")
    assert (away.code, "RunComfy cannot be" in away.stderr) == (69, True)
    if command == "show":
        assert f"id you mean `{EDIT}`?" in away.stderr
    none = comfyline("models", command, "../../etc/passwd")
    assert (none.code, "is not a model id" in none.stderr) == (65, True)


def test_pull_stores_what_runcomfy_publishes_and_says_what_changed(
    online: Path, comfyline: Comfyline, catalogue: Sandbox
) -> None:
    pulled(online, WAN).parent.mkdir(parents=True)
    pulled(online, WAN).write_text("{")

    said = comfyline("models", "pull", "acme/none-1", WAN, SONG, "acme/none-2")

    assert said.code == 65
    assert "no schema of acme/none-1 in" in said.stderr
    assert "no schema of acme/none-2 in" in said.stderr
    listed = comfyline("models", "list", "--local").stdout
    for model_id in (WAN, SONG):
        published = catalogue.api.get(f"/v1/models/{model_id}").json()
        text = json.dumps(published, indent=2, ensure_ascii=False) + "\n"
        assert pulled(online, model_id).read_text() == text
        assert f"configs/models/{model_id}.json: written" in said.stderr
        assert f"{model_id} " in listed
    assert "is up to date" in comfyline("models", "pull", WAN).stderr

    older = json.loads(pulled(online, WAN).read_text())
    del older["input_schema"]["properties"]["seed"]
    older["input_schema"]["properties"]["resolution"]["enum"] = ["480p"]
    pulled(online, WAN).write_text(json.dumps(older))
    changed = comfyline("models", "pull", WAN)

    assert changed.code == 0
    assert "2 changes" in changed.stderr
    assert "input_schema.properties.seed is new" in changed.stderr
    assert '["480p"] → ["480p", "720p", "1080p"]' in changed.stderr


def test_a_folder_that_cannot_be_written_is_said(online: Path, comfyline: Comfyline) -> None:
    (online / "configs").write_text("a file")

    said = comfyline("models", "pull", WAN)

    assert (said.code, "cannot be written" in said.stderr) == (65, True)


@pytest.mark.usefixtures("project")
def test_pull_wants_a_model_and_a_token(comfyline: Comfyline) -> None:
    assert comfyline("models", "pull").code == 64
    assert comfyline("models", "pull", WAN).code == 77
