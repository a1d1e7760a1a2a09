"""Where the fields of a step were written: their own place and their path."""

from pathlib import Path

import pytest

from comfyline.pipeline.render import WrittenStep
from comfyline.yaml.file import LocatedYaml, load_yaml

TEXT = """\
steps:
  edit:
    model: m
    input: &input
      prompt: a
      image_urls:
        - one.jpg
        - {url: two.jpg}
      options: {"a.b": 1, seed: 2}
      variant: fast
    variant: 3
    output: {to: here}
  again: {model: m, input: {<<: *input, prompt: b}}
output:
  to: out
  name: x
"""


@pytest.fixture
def located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocatedYaml:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(TEXT)
    return load_yaml(Path("p.yaml"))


@pytest.mark.parametrize(
    ("step", "field", "expected"),
    [
        ("edit", "prompt", "p.yaml:5:7: steps.edit.input.prompt"),
        ("edit", "image_urls[1]", "p.yaml:8:11: steps.edit.input.image_urls[1]"),
        ("edit", "image_urls[7]", "p.yaml:6:7: steps.edit.input.image_urls[7]"),
        ("edit", "options.seed", "p.yaml:9:27: steps.edit.input.options.seed"),
        ("edit", "aspect_ratio", "p.yaml:4:5: steps.edit.input.aspect_ratio"),
        ("edit", "model", "p.yaml:3:5: steps.edit.model"),
        ("edit", "variant", "p.yaml:10:7: steps.edit.input.variant"),
        ("edit", "output.to", "p.yaml:12:14: steps.edit.output.to"),
        ("edit", "output.name", "p.yaml:16:3: output.name"),
        ("again", "output.to", "p.yaml:15:3: output.to"),
        ("again", "prompt", "p.yaml:13:41: steps.again.input.prompt"),
        ("again", "image_urls[0]", "p.yaml:7:11: steps.again.input.image_urls[0]"),
        ("gone", "prompt", "p.yaml:1:1: steps.gone.input.prompt"),
    ],
)
def test_a_field_is_told_with_its_place_and_its_path(
    located: LocatedYaml, step: str, field: str, expected: str
) -> None:
    assert WrittenStep(located, step).where(field) == expected
