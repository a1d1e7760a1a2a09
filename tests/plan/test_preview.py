import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from comfyline.errors import InputInvalid, Refused, Unreachable
from comfyline.models.catalogue import Catalogue, ModelCache
from comfyline.pipeline.document import load_pipeline
from comfyline.plan.preview import Planned, plan_pipeline

PIPELINE = """\
name: cats
source:
  items: [{sku: A1}, {sku: B2}]
matrix:
  seed: [1, 2]
steps:
  edit:
    model: acme/edit
    input: {prompt: "{{ item.sku }}", seed: "{{ matrix.seed }}"}
output:
  to: out/{{ run.date }}
  name: "{{ item.sku }}-{{ matrix.seed }}-{{ index }}.{{ ext }}"
"""
MODELS = Path("models")
DAY = date(2026, 1, 31)
Write = Callable[..., Path]


class Client:
    """RunComfy knows no model, or is away."""

    def __init__(self) -> None:
        self.error: Exception = Refused("unknown model")

    async def catalogue_entry(self, _model_id: str) -> None:
        raise self.error

    async def models(self, **_asked: object) -> list[object]:
        return []


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/acme").mkdir(parents=True)
    schema = {"properties": {"prompt": {}, "seed": {}, "num_images": {"default": 1}}}
    (tmp_path / "models/acme/edit.json").write_text(
        json.dumps({"model_id": "acme/edit", "input_schema": schema})
    )

    def write_file(**replaced: str) -> Path:
        text = PIPELINE
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        path = Path("cats.yaml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


async def plan(path: Path, client: Client, limit: int | None = None, *overrides: str) -> Planned:
    catalogue = Catalogue((MODELS,), client, ModelCache(Path("kept")))  # type: ignore[arg-type]
    return await plan_pipeline(load_pipeline(path, overrides), limit, "run-1", DAY, catalogue)


def put(name: str, text: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


async def mistakes(path: Path, client: Client, *overrides: str) -> list[str]:
    with pytest.raises(InputInvalid) as caught:
        await plan(path, client, None, *overrides)
    return [str(problem) for problem in caught.value.problems]


async def test_a_pipeline_becomes_its_jobs(write: Write, client: Client) -> None:
    planned = await plan(write(), client)

    assert planned.pipeline.name == "cats"
    assert [job.label for job in planned.jobs] == [
        "A1 · edit · 1",
        "A1 · edit · 2",
        "B2 · edit · 1",
        "B2 · edit · 2",
    ]
    assert planned.jobs[0].placement.folder.startswith("out/2026-01-3")


async def test_limit_and_overrides_hold(write: Write, client: Client) -> None:
    planned = await plan(write(), client, 1, "matrix.seed=[7]")

    assert [job.label for job in planned.jobs] == ["A1 · edit · 7"]


async def test_who_shares_a_run_can_tell_whether_he_plans_the_same(
    write: Write, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEASON", "winter")
    env = {"name: cats": "name: cats\nenv: [SEASON]"}
    path = write(**env)
    planned = await plan(path, client)
    assert (await plan(path, client)).content == planned.content

    others = [await plan(path, client, None, "matrix.seed=[7]")]
    others.append(await plan(write(**env, B2="B3"), client))
    monkeypatch.setenv("SEASON", "summer")
    others.append(await plan(write(**env), client))
    assert len({one.content for one in [planned, *others]}) == 4


async def test_rows_of_a_table_belong_to_what_is_planned_and_files_that_come_later_do_not(
    write: Write, client: Client
) -> None:
    put("t.csv", "sku\nA1\n")
    path = write(**{TWO_ROWS: "table: t.csv"})
    before = await plan(path, client)
    put("t.csv", "sku\nA2\n")
    assert (await plan(path, client)).content != before.content

    path = write(**{TWO_ROWS: "files: in/*.jpg", "item.sku": "item.stem"})
    before = await plan(path, client)
    put("in/cat.jpg", "")
    assert (await plan(path, client)).content == before.content


@pytest.mark.parametrize("source", ["items: []", "files: none-*.jpg"])
async def test_no_items_are_no_mistake(write: Write, client: Client, source: str) -> None:
    path = write(**{"items: [{sku: A1}, {sku: B2}]": source, "item.sku": "item_name"})

    assert (await plan(path, client)).jobs == ()


TWO_ROWS = "items: [{sku: A1}, {sku: B2}]"
NAME = "{{ item.sku }}-{{ matrix.seed }}"
MODEL = "cats.yaml:8:5: steps.edit.model: "


@pytest.mark.parametrize(
    ("replaced", "told"),
    [
        (
            {TWO_ROWS: "items: [{sku: A1}, {sku: B2}, {skew: C3}]", NAME: "{{ item_name }}"},
            [
                "cats.yaml:9:13: there is no field `sku` (item 2)",
                "cats.yaml:7:3: outputs of `A1 · edit · 1` and `A1 · edit · 2` would",
            ],
        ),
        (
            {"acme/edit": "acme/edti", NAME: "one"},
            [f"{MODEL}there is no schema of acme/edti in", "cats.yaml:7:3: outputs of"],
        ),
        ({"acme/edit": "../etc"}, [f"{MODEL}'../etc' is not a model id"]),
        (
            {"{prompt:": "{num_images: 2, prompt:", "-{{ index }}": ""},
            ["cats.yaml:7:3: two outputs of `A1 · edit · 1` would both be called"],
        ),
    ],
)
async def test_mistakes_of_templates_models_and_names_are_told_together_at_their_places(
    write: Write, client: Client, replaced: dict[str, str], told: list[str]
) -> None:
    found = await mistakes(write(**replaced), client)

    assert [one[: len(said)] for one, said in zip(found, told, strict=False)] == told


async def test_what_was_meant_is_named(write: Write, client: Client) -> None:
    [unknown] = await mistakes(write(**{"acme/edit": "acme/edti"}), client)
    [same_name, *_] = await mistakes(write(**{NAME: "{{ item_name }}"}), client)

    assert "did you mean `acme/edit`?" in unknown
    assert same_name.endswith("add {{ matrix.seed }} to output.name")


async def test_without_runcomfy_a_model_without_a_file_cannot_be_planned(
    write: Write, client: Client
) -> None:
    client.error = Unreachable("away")

    with pytest.raises(Unreachable):
        await plan(write(**{"acme/edit": "acme/other"}), client)
