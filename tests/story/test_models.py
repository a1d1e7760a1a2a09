"""Any model by its name: kept once it is known, never paid for unchecked, its cost told."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, Sandbox, free_port
from tests.story.conftest import Project

EDIT = "google/nano-banana/pro/edit"
PIPELINE = """\
name: brushes
source:
  items: [{id: one}]
steps:
  paint:
    model: acme/brush
    input: {prompt: "an offline brush"}
output: {to: out}
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, video_models: Path) -> Iterator[Sandbox]:
    """A RunComfy of its own, with models of which this project has no files."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "acme").mkdir()
    (folder / "acme/blank.json").write_text(
        '{"model_id": "acme/blank", "categories": ["image-to-image"]}'
    )
    state = tmp_path_factory.mktemp("sandbox") / "state"
    models = [ROOT / "configs/models", video_models, folder]
    sandbox = Sandbox(state, models, slots=4, speed=20).start()
    yield sandbox
    sandbox.close()


def at(url: str) -> dict[str, str]:
    return {"RUNCOMFY_BASE_URL": url, "RUNCOMFY_API_TOKEN": "sandbox-token"}


def money(project: Project, job: str) -> list[str]:
    """What `comfyline jobs` prints behind the state of one job: estimate and cost."""
    lines = project.comfyline("jobs").stdout.splitlines()
    words = next(line for line in lines if line.startswith(job[:12])).split()
    state = words.index("persisted")
    return words[state + 1 : state + 3]


def test_a_misspelt_model_is_told_the_right_one_and_nothing_is_submitted(project: Project) -> None:
    ended = project.comfyline("generate", f"{EDIT[:-1]}", "-i", "prompt=a typo", "--json")

    assert ended.code == 65
    assert f"did you mean `{EDIT}`?" in ended.stderr
    assert ended.json["submitted"] == 0
    assert project.charges("a typo") == []


def test_a_model_of_the_catalogue_alone_is_kept_and_known_offline(
    project: Project, elsewhere: Sandbox
) -> None:
    kept = project.home / "models/acme/brush.json"
    (project.directory / "brushes.yaml").write_text(PIPELINE)
    nowhere = at(f"http://127.0.0.1:{free_port()}")

    unknown = project.comfyline("plan", "brushes.yaml", "--json", **nowhere)
    planned = project.comfyline("plan", "brushes.yaml", "--json", **at(elsewhere.url))

    assert unknown.code == 69
    assert "There is no schema of acme/brush" in unknown.stderr
    assert planned.code == 0, planned.stderr
    assert planned.json["estimate_usd"] == pytest.approx(0.04)
    assert not kept.exists()

    made = project.comfyline(
        "generate", "acme/brush", "-i", "prompt=a brush", "--json", **at(elsewhere.url)
    )
    offline = project.comfyline("plan", "brushes.yaml", "--json", **nowhere)

    assert made.code == 0, made.stderr
    assert json.loads(kept.read_text())["model_id"] == "acme/brush"
    assert offline.code == 0, offline.stderr
    assert offline.json["to_make"] == 1
    assert offline.json["estimate_usd"] is None
    assert project.comfyline("check", "brushes.yaml").code == 0


def test_a_model_without_a_schema_is_paid_for_only_when_that_is_asked_for(
    project: Project, elsewhere: Sandbox
) -> None:
    inputs = project.directory / "inputs.json"
    inputs.write_text(json.dumps({"prompt": "a blank", "images": ["@configs/samples/cat.jpg"]}))
    command = ("generate", "acme/blank", "--input-file", "inputs.json", "--json")

    refused = project.comfyline(*command, **at(elsewhere.url))
    assert refused.code == 65
    assert "lists the model without its inputs" in refused.stderr
    assert refused.json["submitted"] == 0

    made = project.comfyline(*command, "--unchecked", **at(elsewhere.url))

    assert made.code == 0, made.stderr
    assert made.json["estimate_usd"] is None
    assert made.json["cost_usd"] == pytest.approx(0.04)
    assert "estimate unknown" in made.stderr
    [request] = [
        row for row in elsewhere.account()["requests"] if row["input"].get("prompt") == "a blank"
    ]
    [address] = request["input"]["images"]
    assert address.startswith("http")
    [output] = made.json["outputs"]
    sidecar = json.loads(Path(output["uri"].removeprefix("file://") + ".json").read_text())
    assert sidecar["inputs"]["images"][0]["media_type"] == "image/jpeg"
    assert "X-Amz" not in json.dumps(sidecar)


class Between(http.server.BaseHTTPRequestHandler):
    """Stands between a run and the sandbox, and changes the JSON that comes back."""

    origin: str
    change: Callable[[dict[str, Any]], None]

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = ("authorization", "host", "content-type")
        headers = {name: value for name, value in self.headers.items() if name.lower() in kept}
        answer = httpx.request(
            self.command, self.origin + self.path, content=body, headers=headers, trust_env=False
        )
        content, media_type = answer.content, answer.headers.get("content-type", "")
        if media_type == "application/json":
            told = answer.json()
            type(self).change(told)
            content = json.dumps(told).encode()
        self.send_response(answer.status_code)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def changed(elsewhere: Sandbox) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], str]]:
    """Gives the origin of a RunComfy whose answers are changed."""
    servers: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    def start(change: Callable[[dict[str, Any]], None]) -> str:
        members = {"origin": elsewhere.url, "change": staticmethod(change)}
        handler = type("Changed", (Between,), members)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def silent_about_costs(answer: dict[str, Any]) -> None:
    answer.pop("cost", None)


def cheaper_in_the_catalogue(answer: dict[str, Any]) -> None:
    if "base_price_usd" in answer:
        answer["base_price_usd"] = 0.03


def test_a_cost_that_is_not_told_is_unknown_everywhere(
    project: Project, changed: Callable[[Callable[[dict[str, Any]], None]], str]
) -> None:
    url = changed(silent_about_costs)

    made = project.comfyline(
        "generate", "acme/brush", "-i", "prompt=a silent price", "--json", **at(url)
    )

    assert made.code == 0, made.stderr
    assert (made.json["cost_unknown"], made.json["estimate_usd"]) == (1, 0.04)
    assert "unknown for 1 submission, estimated $0.04" in made.stderr
    assert "unknown, estimated $0.04" in Path(made.json["report"]).read_text()
    [output] = made.json["outputs"]
    sidecar = json.loads(Path(output["uri"].removeprefix("file://") + ".json").read_text())
    assert (sidecar["cost_usd"], sidecar["estimate_usd"]) == (None, 0.04)
    rows = project.comfyline("jobs", "--pipeline", "generate", "--json").json
    [job] = [row for row in rows if row["job"] == output["job"]]
    assert (job["cost_usd"], job["estimate_usd"]) == (None, 0.04)
    assert money(project, output["job"]) == ["$0.04", "unknown"]


def test_a_cost_that_differs_from_the_estimate_is_told_beside_it(
    project: Project, changed: Callable[[Callable[[dict[str, Any]], None]], str]
) -> None:
    url = changed(cheaper_in_the_catalogue)

    made = project.comfyline(
        "generate", "acme/brush", "-i", "prompt=a dearer price", "--json", **at(url)
    )

    assert made.code == 0, made.stderr
    assert (made.json["cost_usd"], made.json["estimate_usd"]) == (0.04, 0.03)
    assert "$0.04 for 1 submission, estimated $0.03" in made.stderr
    assert money(project, made.json["outputs"][0]["job"]) == ["$0.03", "$0.04"]
