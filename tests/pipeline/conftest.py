"""A pipeline file in a folder of its own, which is the working directory."""

from collections.abc import Callable
from pathlib import Path

import pytest

PIPELINE = """\
name: portraits
source:
  items:
    - {sku: A1, photo: a.jpg}
    - {sku: B2, photo: b.jpg}
matrix:
  ratio: ["1:1", "16:9"]
  seed: [1, 2]
steps:
  edit:
    model: some/model
    input:
      prompt: "a {{ item.sku }} in {{ matrix.ratio }}"
      image_urls: ["{{ item.photo }}"]
      seed: "{{ matrix.seed }}"
output:
  to: out/{{ run.date }}
  name: "{{ item.sku }}-{{ matrix.ratio }}-{{ matrix.seed }}-{{ step }}-{{ index }}.{{ ext }}"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a pipeline file, given as text or as replacements in a pipeline that is right."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str = PIPELINE, **replaced: str) -> Path:
        for old, new in replaced.items():
            text = text.replace(old, new)
        path = Path("p.yaml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def pipeline_text() -> str:
    """A pipeline that is right: two items, two matrix lists, one step."""
    return PIPELINE
