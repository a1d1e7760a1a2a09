"""check: everything that is wrong with files, a line each, in order, with its own place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from comfyline.models import catalogue
from comfyline.models.entry import find_model
from comfyline.pipeline.document import Step
from tests.cli.conftest import Comfyline, Office
from tests.ended import Ended

STEP = Step.model_fields
ROOT = Path(__file__).parents[2]
MODEL = {
    "model_id": "acme/edit",
    "kind": "model",
    "categories": ["image-to-image"],
    "input_schema": {
        "type": "object",
        "required": ["prompt", "image_urls"],
        "properties": {
            "prompt": {"type": "string"},
            "image_urls": {
                "type": "array",
                "maxItems": 3,
                "items": {"type": "string", "format": "image_uri"},
            },
            "aspect_ratio": {"type": "string", "enum": ["1:1", "16:9"]},
            "seed": {"type": "integer"},
            "upscale": {"type": "boolean"},
            "style": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    },
}
RIGHT = """\
name: scenes
source: {items: [{sku: A1}, {sku: B2}]}
matrix: {ratio: ["1:1", "16:9"]}
steps:
  edit:
    model: acme/edit
    input:
      prompt: "{{ item.sku }}, an office"
      image_urls: [cat.jpg]
      aspect_ratio: "{{ matrix.ratio }}"
output: {to: out, name: "{{ item.sku }}-{{ matrix.ratio }}-{{ index }}.{{ ext }}"}
"""

NOT_A_RATIO = "'16x9' is not one of 1:1, 16:9; did you mean `16:9`?"
EVERY_MISTAKE = f"""\
a.yaml:6:5: steps.edit.model: there is no schema of acme/edti in configs/models/, and none is cached; did you mean `acme/edit`?
b.yaml:3:1: unknown key `matrx`; did you mean `matrix`?
b.yaml:7:5: steps.edit.input.image_urls: is missing; the model requires it
b.yaml:8:7: steps.edit.input.prompt: should be text, not a number (5); write it in quotes
b.yaml:9:7: steps.edit.input.aspect_ratio: {NOT_A_RATIO}
b.yaml:10:7: steps.edit.input.sede: the model has no such field; did you mean `seed`?
b.yaml:11:7: steps.edit.input.seed: should be a whole number, not the text '1_000'; write `1000`, without separators
b.yaml:12:7: steps.edit.input.upscale: should be true or false, not the text 'yes'; write `true`: yes is a text in YAML 1.2
b.yaml:13:15: steps.edit.input.style.name: should be text, not a number (31); write it in quotes
b.yaml:13:27: steps.edit.input.style.nmae: the model has no such field; did you mean `name`?
b.yaml:14:5: `collect` should be true or false or `items`, not the text 'maybe'; collect: {STEP["collect"].description}
b.yaml:15:10: invalid template: unexpected end of template, expected 'end of print statement'
b.yaml:16:21: 07 is a number with a leading zero, which YAML reads in several ways; write "07" in quotes for a text, or 7 for a number
13 mistakes in 2 of 2 files.
"""  # noqa: E501  # as they stand on a screen

Check = Callable[..., Ended]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comfyline: Comfyline) -> Check:
    """Writes pipelines by name, with a model and a picture beside them, and checks them all."""
    models = tmp_path / "configs" / "models" / "acme"
    models.mkdir(parents=True)
    (models / "edit.json").write_text(json.dumps(MODEL))
    shutil.copy(ROOT / "configs/samples/cat.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFYLINE_HOME", str(tmp_path / "home"))

    def written(*options: str, **texts: str) -> Ended:
        for name, text in texts.items():
            Path(f"{name}.yaml").write_text(text)
        return comfyline("check", *(f"{name}.yaml" for name in texts), *options)

    return written


def lines(ended: Ended) -> list[str]:
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def edited(*replaced: tuple[str, str]) -> str:
    text = RIGHT
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return text


def test_mistakes_of_the_file_and_of_its_inputs_are_told_at_once_in_order(check: Check) -> None:
    wrong = """\
name: scenes
source: {items: [{sku: A1}]}
matrx: {ratio: [1]}
steps:
  edit:
    model: acme/edit
    input:
      prompt: 5
      aspect_ratio: 16x9
      sede: 1
      seed: 1_000
      upscale: yes
      style: {name: 0x1F, nmae: "{{ item.sku }}"}
    collect: maybe
output: {to: "{{ item.skuu", name: x}
limits: {in_flight: 07}
"""
    ended = check(b=wrong, a=edited(("acme/edit", "acme/edti")))

    assert ended.code == 65
    assert ended.stderr == EVERY_MISTAKE


def test_what_only_the_items_show_is_told_at_the_field_that_they_fill(check: Check) -> None:
    text = edited(
        ('["1:1", "16:9"]', "[1:1, 16x9]"), ("[cat.jpg]", '[cat.jpg, "{{ item.sku }}.jpg"]')
    )

    found = "there is no file {}; check the path and the source"
    assert lines(check(a=text)) == [
        f"a.yaml:9:29: steps.edit.input.image_urls[1]: {found.format('A1.jpg')}",
        f"a.yaml:9:29: steps.edit.input.image_urls[1]: {found.format('B2.jpg')}",
        f"a.yaml:10:7: steps.edit.input.aspect_ratio: {NOT_A_RATIO}",
        "3 mistakes in 1 file.",
    ]


def test_places_are_right_in_flow_anchored_merged_and_extended_yaml(check: Check) -> None:
    Path("base.yaml").write_text(
        RIGHT.replace("input:", "input: &input").replace('"{{ matrix.ratio }}"', "4x3")
        + "limits: {in_flight: 0}\n"
    )
    text = """\
extends: base.yaml
name: more
x: &shared {seed: many}
steps:
  other: {model: acme/edit, input: {<<: *shared, prompt: p, image_urls: [cat.jpg, 3]}}
"""

    assert [line.split(": ")[:2] for line in lines(check(a=text))[:-1]] == [
        ["a.yaml:3:1", "unknown key `x`; allowed here"],
        ["a.yaml:3:13", "steps.other.input.seed"],
        ["a.yaml:5:83", "steps.other.input.image_urls[1]"],
        ["base.yaml:10:7", "steps.edit.input.aspect_ratio"],
        ["base.yaml:12:10", "`in_flight` should be at least 1, not 0; in_flight"],
    ]


def test_names_that_collide_and_a_missing_variable_are_found(check: Check) -> None:
    same = edited(('name: "{{ item.sku }}-{{ matrix.ratio }}', 'name: "{{ item.sku }}'))
    unset = edited(("matrix:", "env: [COMFYLINE_TEST_UNSET]\nmatrix:"))

    told = lines(check(a=same, b=unset))

    assert len(told) == 3
    assert "would both be called" in told[0]
    assert told[1].startswith("b.yaml:3:7: the environment variable COMFYLINE_TEST_UNSET is not")


def test_a_broken_model_file_is_named_where_the_model_is(check: Check) -> None:
    Path("configs/models/acme/edit.json").write_text("{")

    [told, _] = lines(check(a=RIGHT))

    assert told.startswith("a.yaml:6:5: steps.edit.model: ")
    assert "configs/models/acme/edit.json:1:2: not valid JSON" in told


def test_right_files_have_no_mistakes_and_each_model_is_read_once_for_all(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(model_id: str, directories: tuple[Path, ...]) -> object:
        read.append(model_id)
        return find_model(model_id, directories)

    monkeypatch.setattr(catalogue, "find_model", counted)

    ended = check(a=RIGHT, b=edited(("scenes", "others")))

    assert (ended.code, ended.stderr) == (0, "2 files checked: no mistakes.\n")
    assert read == ["acme/edit"]
    assert check().code == 64, "nothing to check"


def test_a_file_that_cannot_be_read_hides_no_other(check: Check) -> None:
    told = lines(check(a="a: [1\n", b="{}", c=RIGHT))

    assert told[0].startswith("a.yaml:2:1: not valid YAML")
    assert any(line.startswith("b.yaml:1:1: `steps` is missing") for line in told)
    assert told[-1].endswith("mistakes in 2 of 3 files.")


def test_without_a_profile_nothing_is_asked_of_object_storage(check: Check) -> None:
    source = edited(("{items: [{sku: A1}, {sku: B2}]}", "{files: s3://inbox/*.jpg}"))
    source = source.replace("item.sku", "item.stem")
    media = edited(("cat.jpg", "s3://inbox/cat.jpg"))

    ended = check(a=source, b=media)

    assert ended.code == 0
    assert lines(ended) == [
        "a.yaml: not checked without --profile: s3://inbox/*.jpg",
        "b.yaml: not checked without --profile: s3://inbox/cat.jpg",
        "2 files checked: no mistakes.",
    ]


def test_with_a_profile_object_storage_is_looked_at(
    check: Check, office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.put((tmp_path / "cat.jpg").read_bytes(), f"{office.bucket}/inbox/cat.jpg")
    monkeypatch.chdir(tmp_path)
    text = edited(("{items: [{sku: A1}, {sku: B2}]}", f"{{files: {office.bucket}/inbox/*.jpg}}"))
    text = text.replace("item.sku", "item.stem").replace("cat.jpg", "{{ item.path }}")
    there = text.replace("[{{ item.path }}]", '["{{ item.path }}"]')
    gone = there.replace("{{ item.path }}", f"{office.bucket}/inbox/dog.jpg")

    ended = check("--profile", str(tmp_path / "profile.yaml"), a=there, b=gone)

    missing = f"there is no file {office.bucket}/inbox/dog.jpg; check the path and the source"
    assert lines(ended) == [
        f"b.yaml:9:20: steps.edit.input.image_urls[0]: {missing}",
        "1 mistake in 1 of 2 files.",
    ]


def test_storage_that_cannot_be_reached_is_told_as_such_beside_the_mistakes(
    check: Check, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(
        "runcomfy: {base_url: local:sandbox}\n"
        "storage: {uploads: s3://b/u, endpoint_url: local:storage}\n"
    )

    ended = check("--profile", str(tmp_path / "p.yaml"), a=RIGHT)

    assert ended.code == 69
    assert "The local storage is not running" in ended.stderr
