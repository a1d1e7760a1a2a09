"""The project's own pipelines as a new user runs them, all at once, and then once more."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from comfyline.config.settings import StorageSettings
from comfyline.stack.stack import StackAddresses
from comfyline.storage.s3 import Bucket
from tests.conftest import ROOT, Sandbox
from tests.ended import Ended
from tests.story.conftest import Project, project_at

PROFILE = """\
extends: configs/profiles/sandbox.yaml
runcomfy: {base_url: URL, balance_url: null}
"""
IMAGE, VIDEO = "image/png", "video/mp4"


@dataclass(frozen=True)
class Example:
    """A pipeline with few items, and what comes of it: kinds of file, and some names."""

    name: str
    arguments: tuple[str, ...]
    kinds: dict[str, int]
    files: frozenset[str]


EXAMPLES = [
    Example(
        "product-launch",
        ("--limit=1", '--set=steps.formats.for_each=["16:9", "4:5"]'),
        {IMAGE: 3, VIDEO: 1},
        frozenset({"CUP-01-scene.png", "CUP-01-16-9.png", "CUP-01-4-5.png", "CUP-01-film.mp4"}),
    ),
    Example(
        "style-sweep",
        (),
        {IMAGE: 4},
        frozenset({"cat-a-watercolour-painting-16-9.png", "cat-an-old-photo-in-sepia-4-3.png"}),
    ),
    Example(
        "storyboard",
        # Two of three shots, and a film of fewer pixels.
        ("--limit=2", "--set=steps.film.input.aspect_ratio=1:1"),
        {IMAGE: 2, VIDEO: 3},
        frozenset({"1-arrival-frame.png", "2-market-shot.mp4", "film.mp4"}),
    ),
    Example("daily-digest", (), {IMAGE: 2}, frozenset({"cat.png", "rocket 2.png"})),
]

Twice = dict[str, tuple[Ended, Ended]]


@pytest.fixture(scope="module")
def empty_inbox(examples: Project) -> Ended:
    return examples.comfyline(
        "run", "configs/pipelines/daily-digest.yaml", "--profile=fast", "--json"
    )


@pytest.fixture(scope="module")
def examples(
    tmp_path_factory: pytest.TempPathFactory,
    stack: StackAddresses,
    stack_home: Path,
    forks: Path,
    start_sandbox: Callable[..., Sandbox],
) -> Iterator[Project]:
    """A fresh folder, with a sandbox that does not pretend to take its time."""
    directory = tmp_path_factory.mktemp("examples") / "project"
    with project_at(directory, stack, stack_home, forks) as project:
        profile = directory / "configs/profiles/fast.yaml"
        profile.write_text(PROFILE.replace("URL", start_sandbox(speed=100).url))
        project.environment |= {
            "COMFYLINE_LEDGER_URL": f"sqlite:///{directory / 'ledger.sqlite3'}",
            "RUNCOMFY_API_TOKEN": "sandbox-token",
        }
        yield project


@pytest.fixture(scope="module")
async def inbox(empty_inbox: Ended, stack: StackAddresses) -> str:
    """Two photos in the inbox of the local storage, put there when it had been seen empty."""
    assert empty_inbox.code == 0
    keys, address = stack.storage_credentials, "s3://comfyline/inbox"
    assert keys is not None
    secrets = (SecretStr(keys.access_key_id), SecretStr(keys.secret_access_key))
    async with Bucket(StorageSettings("", stack.storage_endpoint, *secrets)) as bucket:
        for photo, name in (("cat", "cat"), ("rocket", "sub/rocket 2")):
            source = ROOT / f"configs/samples/{photo}.jpg"
            await bucket.put(source, f"{address}/{name}.jpg", "image/jpeg")
    return address


@pytest.fixture(scope="module")
def ended(examples: Project, inbox: str) -> Twice:
    """How each example ended the first and the second time; all of them run side by side."""
    assert inbox

    def run_all() -> list[Ended]:
        commands = [
            examples.start(
                "run",
                f"configs/pipelines/{one.name}.yaml",
                "--profile=fast",
                "--json",
                *one.arguments,
            )
            for one in EXAMPLES
        ]
        said = [command.communicate(timeout=180) for command in commands]
        codes = [command.returncode for command in commands]
        return [Ended(code or 0, *texts) for code, texts in zip(codes, said, strict=True)]

    both = zip(run_all(), run_all(), strict=True)
    return dict(zip((one.name for one in EXAMPLES), both, strict=True))


def files_of(summary: dict[str, Any]) -> dict[str, Path]:
    paths = [Path(output["uri"].removeprefix("file://")) for output in summary["outputs"]]
    return {path.name.replace("%20", " "): path for path in paths}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_makes_its_files_and_then_nothing_more(example: Example, ended: Twice) -> None:
    first, second = ended[example.name]

    assert first.code == 0, first.stderr
    summary = first.json
    jobs = sum(example.kinds.values())
    counts = {key: summary[key] for key in ("jobs", "persisted", "submitted", "reused", "errors")}
    assert counts == {"jobs": jobs, "persisted": jobs, "submitted": jobs, "reused": 0, "errors": []}
    assert Counter(output["media_type"] for output in summary["outputs"]) == example.kinds
    assert example.files <= set(files_of(summary))
    for output in summary["outputs"]:
        path = Path(output["uri"].removeprefix("file://").replace("%20", " "))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == output["sha256"]
    assert summary["cost_usd"] > 0

    again = second.json
    assert (second.code, again["reused"], again["submitted"]) == (0, jobs, 0), second.stderr
    assert again["outputs"] == summary["outputs"]


def test_the_sweep_has_a_contact_sheet(ended: Twice) -> None:
    first, _ = ended["style-sweep"]
    folder = next(iter(files_of(first.json).values())).parent

    with Image.open(folder / "contact-sheet.jpg") as sheet:
        # Four pictures in two columns.
        assert sheet.width == 2 * 268 + 12
    assert f"Contact sheet: {(folder / 'contact-sheet.jpg').as_uri()}" in first.stderr


def test_an_empty_inbox_is_nothing_to_do(empty_inbox: Ended) -> None:
    assert empty_inbox.code == 0, empty_inbox.stderr
    summary = empty_inbox.json
    assert (summary["jobs"], summary["outputs"], summary["errors"]) == (0, [], [])
    assert "Nothing to do: no file found in s3://comfyline/inbox/" in empty_inbox.stderr
