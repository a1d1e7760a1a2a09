"""A presigned address on the command line reaches RunComfy, and no place that keeps it."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.story.conftest import ROOT, Project

EDIT = "google/nano-banana/pro/edit"
SECRET = "f00dfeed0123456789abcdef"
PIPELINE = """\
name: presigned
source: {items: [{sku: A1}]}
matrix: {photo: [none]}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input: {prompt: "{{ item.sku }} at night", image_urls: ["{{ matrix.photo }}"]}
output: {to: outputs/presigned, name: "{{ item.sku }}-{{ index }}.{{ ext }}"}
"""


QUERY = f"X-Amz-Credential=me&X-Amz-Signature={SECRET}"


class _Signed(http.server.BaseHTTPRequestHandler):
    """Gives a picture to whoever has the whole address."""

    def do_GET(self) -> None:
        has_all = self.path == f"/cat.jpg?{QUERY}"
        body = (ROOT / "configs/samples/cat.jpg").read_bytes() if has_all else b""
        self.send_response(200 if has_all else 403)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def photo() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Signed) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://user:{SECRET}-password@127.0.0.1:{server.server_port}/cat.jpg?{QUERY}"
        server.shutdown()
        thread.join()


def everything_that_is_kept(project: Project) -> str:
    """What Prefect tells of everything, and every file that a run writes."""
    told = []
    for kind in ("flow_runs", "task_runs", "artifacts", "logs"):
        page = 0
        while some := project.prefect(
            "POST", f"{kind}/filter", json={"limit": 200, "offset": page}
        ):
            told.append(json.dumps(some))
            page += 200
    ours = {"filter": {"event": {"prefix": ["comfyline."]}}, "limit": 50}
    told.append(json.dumps(project.prefect("POST", "events/filter", json=ours)))
    folders = [project.home / "logs", project.home / "runs", project.directory / "outputs"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    # What was written last may still lie beside the ledger.
    paths += project.home.glob("ledger.sqlite3*")
    told += (f"{path}: {path.read_text(errors='replace')}" for path in paths)
    return "\n".join(told)


def test_it_is_told_to_runcomfy_and_kept_nowhere(project: Project, photo: str) -> None:
    asked = ("generate", EDIT, "-i", "prompt=a secret cat", "-i", f"image_urls={photo}", "--json")
    made = project.comfyline(*asked)
    (project.directory / "presigned.yaml").write_text(PIPELINE)
    setting = f"matrix.photo={json.dumps([photo])}"
    ran = project.comfyline("run", "presigned.yaml", "--set", setting, "--json")

    for ended in (made, ran):
        assert ended.code == 0, ended.stderr
        assert SECRET not in ended.stdout + ended.stderr
    for prompt in ("a secret cat", "A1 at night"):
        assert len(project.charges(prompt)) == 1
    kept = everything_that_is_kept(project)
    assert "a secret cat" in kept
    assert "kept out of Prefect" in kept
    assert SECRET not in kept
