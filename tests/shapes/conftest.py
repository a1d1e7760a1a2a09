"""Catalogue entries of many shapes, most of them unknown to the project, and one run of all.

`models/` holds them exactly as RunComfy publishes entries. The five of well-known vendors are
RunComfy's own; those of `lumen/` have the shapes that these five do not show.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from comfyline.stack.stack import StackAddresses
from tests.conftest import ROOT, Sandbox, jpeg, prefect_variables
from tests.forking import clean_environment
from tests.recordings import mp4, wav

MODELS = Path(__file__).parent / "models"

PROFILE = """
runcomfy:
  base_url: {url}
  token_env: RUNCOMFY_API_TOKEN
  in_flight: 32
  submits_per_second: 50
storage:
  uploads: s3://comfyline/shapes
  endpoint_url: local:storage
  url_expires: 1h
"""


@dataclass(frozen=True)
class Order:
    """One model with inputs, and what has to come of it.

    `kinds` are the stored files' in their order, `seconds` how long a recording lasts, `charge`
    in USD; `shape` is width by height, where the input says so.
    """

    model_id: str
    inputs: dict[str, Any]
    kinds: tuple[str, ...]
    charge: float
    seconds: float | None = None
    shape: float | None = None
    has_sound: bool = False


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose catalogue has these entries and no other."""
    state = tmp_path_factory.mktemp("shapes") / "state"
    sandbox = Sandbox(state, [MODELS], slots=6, speed=50).start()
    yield sandbox
    sandbox.close()
    assert "Traceback" not in sandbox.log.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, catalogue: Sandbox) -> Path:
    """A project folder without any model schema, and small media of every kind in it."""
    folder = tmp_path_factory.mktemp("project")
    profiles = folder / "configs" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "shapes.yaml").write_text(PROFILE.format(url=catalogue.url))
    (folder / "photo.jpg").write_bytes(jpeg((240, 120)))
    (folder / "print.jpg").write_bytes(jpeg((96, 128)))
    (folder / "voice.wav").write_bytes(wav(1.5))
    mp4(folder / "clip.mp4", seconds=2, size=(160, 96), sound=True)
    return folder


@pytest.fixture(scope="module")
def run_orders(folder: Path, stack: StackAddresses, stack_home: Path):
    """Runs orders through the real flow, in one process with one import of Prefect."""
    assert stack.prefect_api_url
    environment = clean_environment() | {
        **prefect_variables(stack),
        "COMFYLINE_HOME": str(stack_home),
        # The stack's own ledger knows only what was asked of the stack's own sandbox.
        "COMFYLINE_LEDGER_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
        "RUNCOMFY_API_TOKEN": "sandbox-token",
        "PYTHONPATH": str(ROOT),
    }

    def run(orders: list[Order]) -> list[dict[str, Any]]:
        asked = [{"model_id": order.model_id, "inputs": order.inputs} for order in orders]
        ended = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "driver.py")],
            cwd=folder,
            env=environment,
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        answers: list[dict[str, Any]] = json.loads(ended.stdout)
        return answers

    return run
