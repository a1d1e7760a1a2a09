"""The page on pipelines: every key is on it, and every example on it is right."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from comfyline.cli.main import run
from comfyline.pipeline.document import PipelineDocument, load_pipeline
from comfyline.yaml.file import load_yaml
from tests.conftest import ROOT

PAGE = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REST = {
    "name": "name: rest\n",
    "source": "source: {items: [{name: one}]}\n",
    "steps": "steps: {card: {model: acme/card, input: {prompt: hello}}}\n",
    "output": "output: {to: outputs}\n",
}


def sections(kind: Any) -> Iterator[type[BaseModel]]:
    """A section of the format and all sections in it, however they are wrapped."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    for inner in get_args(kind):
        yield from sections(inner)


FOUND = list(dict.fromkeys(sections(PipelineDocument)))


@pytest.mark.parametrize("section", FOUND, ids=lambda section: section.__name__)
def test_every_key_is_on_the_page(section: type[BaseModel]) -> None:
    written = "\n".join(BLOCKS) + "\n".join(re.findall(r"`[^`\n]+`", PAGE))

    assert section.model_fields
    missing = [name for name in section.model_fields if not re.search(rf"\b{name}\b", written)]
    assert missing == []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition("\n")[0])
def test_every_example_on_the_page_is_right(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/office.md").write_text("An office.\n")
    monkeypatch.chdir(tmp_path)
    path = Path("p.yaml")
    path.write_text(block, encoding="utf-8")
    there = load_yaml(path).data
    path.write_text(block + "".join(text for key, text in REST.items() if key not in there))

    assert load_pipeline(path).document.steps


def test_every_pipeline_of_the_project_is_on_the_page_and_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COMFYLINE_HOME", str(tmp_path))
    paths = sorted(Path("configs/pipelines").glob("*.yaml"))

    assert len(paths) >= 5
    assert run(["check", *map(str, paths)]) == 0, capsys.readouterr().err
    for path in paths:
        assert load_pipeline(path).name == path.stem
        assert f"](../{path})" in PAGE
