import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfyline.config.load import look
from comfyline.errors import GenerationFailed
from comfyline.job import CheckedJob, JobState, StoredOutput
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.output_names import output_uris
from comfyline.plan.check import validate_jobs
from comfyline.plan.preview import plan_pipeline
from comfyline.services import day_of, now, open_services
from comfyline.storage.place import local_path
from tests.cli.conftest import Office
from tests.conftest import EDIT
from tests.ended import Ended
from tests.media.clips import picture

ROOT = Path(__file__).parents[2]
PIPELINE = """\
name: scenes
source:
  items: [{photo: a.png}, {photo: b.png}]
matrix:
  aspect_ratio: ["1:1", "16:9"]
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: an office
      image_urls: ["{{ item.photo }}"]
      aspect_ratio: "{{ matrix.aspect_ratio }}"
  retouch:
    model: google/nano-banana/pro/edit
    for_each: "{{ steps.edit.images }}"
    input: {prompt: softer, image_urls: ["{{ each }}"]}
  poster:
    model: google/nano-banana/pro/edit
    collect: true
    when: "{{ env.POSTER }}"
    input:
      prompt: a poster
      image_urls: ["{{ steps.edit.images[0] }}", "{{ steps.retouch.images[0] }}"]
    output: {name: "poster-{{ index }}.{{ ext }}"}
env: [POSTER]
output: {to: out}
"""


class Project:
    """A pipeline of three steps over two photos, and what earlier runs have made of it."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self._content = 0

    def plan(self, *more: str, path: str = "scenes.yaml") -> Ended:
        return self.office.comfyline("plan", path, *more)

    def planned(self, *more: str) -> dict[str, Any]:
        ended = self.plan("--json", *more)
        assert ended.code == 0, ended.stderr
        return dict(ended.json)

    def jobs(self, *overrides: str) -> list[CheckedJob]:
        """The jobs that need no other."""

        async def work() -> list[CheckedJob]:
            profile = str(self.office.folder / "profile.yaml")
            async with open_services(look(profile), reading=True) as services:
                planned = await plan_pipeline(
                    load_pipeline(Path("scenes.yaml"), overrides),
                    None,
                    "run",
                    day_of(now()),
                    services.catalogue,
                )
                begun = planned.schedule().begin().jobs
                return [one for one in (await validate_jobs(begun, services)).checked if one]

        return asyncio.run(work())

    def stored(self, job: CheckedJob) -> Path:
        """The file of an output that is really there."""
        self._content += 1
        content = picture("PNG", (40 + self._content, 40))
        bare = StoredOutput(0, "", f"{self._content:064x}", len(content), "image/png")
        [uri] = output_uris(job.job.placement, [bare])
        path = local_path(uri)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self.office.persisted(self.office.submitted(job), replace(bare, uri=uri))
        return path


@pytest.fixture
def project(office: Office, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("POSTER", "no")
    Path("configs").symlink_to(ROOT / "configs")
    Path("scenes.yaml").write_text(PIPELINE)
    Path("a.png").write_bytes(picture("PNG", (64, 64)))
    Path("b.png").write_bytes(picture("PNG", (65, 64)))
    return Project(office)


def edits(planned: dict[str, Any]) -> dict[str, str]:
    """The reasons of the first step's jobs, by item and ratio."""
    return {
        f"{one['item']} {one['settings']['aspect_ratio']}": one["reason"]
        for one in planned["make"]
        if one["step"] == "edit"
    }


def test_a_plan_tells_in_how_many_shards_a_run_would_be_cut(project: Project) -> None:
    assert project.planned()["shards"] == 1
    assert project.planned("--set", "limits.shard=4")["shards"] == 2
    # No more than there are items, and none for what fits into one.
    assert project.planned("--set", "limits.shard=1")["shards"] == 2
    assert project.planned("--set", "limits.shard=8")["shards"] == 1


def test_a_plan_tells_of_every_step_how_many_jobs_there_are_and_what_they_cost(
    project: Project,
) -> None:
    planned = project.planned()

    assert planned["pipeline"] == "scenes"
    assert (planned["items"], planned["jobs"], planned["reused"]) == (2, 8, 0)
    assert (planned["to_make"], planned["waiting"]) == (8, 4)
    assert planned["reasons"] == {"new": 4, "after `edit`": 4}
    assert planned["estimate_usd"] == planned["estimate_known_usd"] == pytest.approx(8 * 0.14)
    assert planned["unknown_prices"] == planned["errors"] == []
    edit, retouch, poster = planned["steps"]
    assert edit == {
        "step": "edit",
        "models": [EDIT],
        "needs": [],
        "jobs": 4,
        "reused": 0,
        "to_make": 4,
        "waiting": 0,
        "reasons": {"new": 4},
        "estimate_usd": pytest.approx(0.56),
        "estimate_known_usd": pytest.approx(0.56),
    }
    assert (retouch["needs"], retouch["to_make"], retouch["waiting"]) == (["edit"], 4, 4)
    assert (poster["needs"], poster["jobs"]) == (["edit", "retouch"], 0)
    first, waiting = planned["make"][0], planned["make"][-1]
    assert first == {
        "job": project.jobs()[0].key,
        "item": "0",
        "step": "edit",
        "model": EDIT,
        "settings": {"aspect_ratio": "1:1"},
        "part": None,
        "reason": "new",
        "estimate_usd": pytest.approx(0.14),
    }
    assert (waiting["job"], waiting["part"]) == (None, 0)


def test_each_job_of_the_first_step_has_its_own_reason(project: Project) -> None:
    one, two, three, four = project.jobs()
    ledger = project.office.ledger
    project.office.submitted(one)
    failed, no = project.office.submitted(two), GenerationFailed("no")
    ledger(lambda it: it.ended(failed, JobState.FAILED, no))
    project.stored(three).unlink()
    project.stored(four)

    planned = project.planned()

    assert edits(planned) == {
        "0 1:1": "paid for, to be collected",
        "0 16:9": "to be tried again",
        "1 1:1": "output missing",
    }
    assert planned["reused"] == 1
    assert planned["steps"][0]["estimate_usd"] == pytest.approx(0.14)


def test_what_was_changed_since_the_last_run_is_told(project: Project) -> None:
    for job in project.jobs():
        project.stored(job)
    prompt, both = "--set=steps.edit.input.prompt=a beach", "--set=steps.edit.variant=2"
    ratio = '--set=matrix.aspect_ratio=["1:1","4:3"]'
    every = ("0 1:1", "0 16:9", "1 1:1", "1 16:9")

    said = "prompt changed and variant changed"
    assert edits(project.planned(prompt, both)) == dict.fromkeys(every, said)
    assert edits(project.planned("--refresh")) == dict.fromkeys(every, "refresh")
    assert edits(project.planned(ratio)) == {"0 4:3": "new", "1 4:3": "new"}
    Path("b.png").write_bytes(picture("PNG", (70, 70)))
    assert edits(project.planned()) == {"1 1:1": "photo changed", "1 16:9": "photo changed"}


def test_once_everything_is_there_the_plan_of_it_is_empty(project: Project) -> None:
    for job in project.jobs():
        project.stored(job)
    begun = project.planned()
    assert begun["reasons"] == {"new": 4}
    assert [one["step"] for one in begun["make"]] == ["retouch"] * 4

    edit = load_pipeline(Path("scenes.yaml")).yaml.data["steps"]["edit"]
    done = project.planned(f"--set=steps={json.dumps({'edit': edit})}")

    assert (done["to_make"], done["make"], done["estimate_usd"]) == (0, [], 0)


def test_the_table_shows_the_steps_with_their_figures_in_80_columns(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTER", "yes")
    said = project.plan("--set=limits.max_cost_usd=1", "--max-cost=0.5").stdout

    lines = said.splitlines()
    assert all(len(line) <= 80 for line in lines), said
    assert lines[0] == "2 items × 2 combinations"
    assert lines[1].split() == ["scenes", "jobs", "there", "to", "make", "waiting", "estimate"]
    assert lines[2].split() == ["edit", "4", "–", "4", "–", "$0.56"]
    assert "for each of steps.edit.images" in said
    assert "needs `edit` and `retouch`" in said
    assert "collects all" in said
    assert "1 after `edit` and `retouch`" in said
    assert "total" in said
    assert "  0 · edit · 1:1" in said
    assert "The estimate of $1.26 is over --max-cost, $0.50: a run stops there." in said
    assert "The estimate of $1.26 is over limits.max_cost_usd, $1.00: a run stops there." in said


def test_many_jobs_are_named_only_when_all_are_asked_for(project: Project) -> None:
    ratios = '--set=matrix.aspect_ratio=["1:1","16:9","4:3","3:4"]'

    few, all_ = project.plan(ratios).stdout, project.plan(ratios, "--all").stdout

    assert "and 4 more jobs; --all names every one" in few
    assert "1 · retouch · 3:4" not in few
    assert "1 · retouch · 3:4" in all_
    assert "more jobs" not in all_


def test_what_two_jobs_ask_for_alike_is_paid_for_once_and_no_items_are_nothing_to_do(
    project: Project,
) -> None:
    planned = project.planned("--set=source.items=[{photo: a.png}, {photo: a.png}]")
    assert planned["steps"][0]["to_make"] == 4
    assert planned["steps"][0]["estimate_usd"] == pytest.approx(2 * 0.14)

    empty, ended = "--set=source.items=[]", project.plan("--set=source.items=[]")
    planned = project.planned(empty)
    assert (ended.code, ended.stdout.strip()) == (0, "nothing to do")
    assert (planned["jobs"], planned["estimate_usd"], planned["make"]) == (0, 0, [])


def test_a_model_without_a_price_is_named_and_its_step_is_not_free(project: Project) -> None:
    Path("configs").unlink()
    Path("configs/models/acme").mkdir(parents=True)
    schema = {"properties": {"prompt": {"type": "string"}}}
    entry = {"model_id": "acme/free", "input_schema": schema, "base_price_usd": 1}
    Path("configs/models/acme/free.json").write_text(json.dumps(entry))
    Path("scenes.yaml").write_text(
        "name: scenes\nsource: {items: [{n: 1}]}\noutput: {to: out}\n"
        "steps: {make: {model: acme/free, input: {prompt: x}}}\n"
    )

    planned = project.planned()

    assert planned["unknown_prices"] == ["acme/free"]
    assert planned["estimate_usd"] is None
    assert planned["estimate_known_usd"] == 0
    assert planned["make"][0]["estimate_usd"] is None
    assert "The price of acme/free is unknown" in project.plan().stdout


def test_a_plan_with_mistakes_names_all_of_them_and_is_no_success(project: Project) -> None:
    Path("a.png").unlink()
    Path("b.png").write_bytes(b"")

    ended = project.plan("--json")

    assert ended.code == 65
    messages = [error["message"] for error in ended.json["errors"]]
    assert messages == ["there is no file a.png", "b.png is empty"]
    assert all(error["where"].startswith("scenes.yaml:11:") for error in ended.json["errors"])
    assert ended.json["reasons"]["with mistakes"] == 4
    assert all(message in ended.stderr for message in messages)


def test_what_cannot_be_rendered_from_what_is_there_is_a_mistake_of_the_plan(
    project: Project,
) -> None:
    two = "steps.edit.input.num_images=2"
    for job in project.jobs(two):
        # The model was to make two pictures, and made one.
        project.stored(job)

    second = "--set=steps.retouch.input.prompt={{ steps.edit.images[1] }}"
    ended = project.plan("--json", f"--set={two}", second)

    assert ended.code == 65
    assert ended.json["reasons"]["cannot be made"] == ended.json["to_make"]
    assert ended.json["errors"]


@pytest.mark.parametrize(
    ("path", "override"), [("none.yaml", "name=x"), ("scenes.yaml", "steps.edit.model=x/y")]
)
def test_what_stops_the_planning_is_one_json_object_as_well(
    project: Project, path: str, override: str
) -> None:
    ended = project.plan(f"--set={override}", "--json", path=path)

    assert ended.code == 65
    assert ended.json["errors"]
    assert (ended.json["jobs"], ended.json["estimate_usd"]) == (0, None)
    assert ended.json["errors"][0]["message"] in ended.stderr


def test_a_plan_writes_nothing(project: Project, office: Office) -> None:
    (office.folder / "home/ledger.sqlite3").unlink()
    before = sorted(office.folder.rglob("*"))

    assert project.planned()["to_make"] == 8

    after = [path for path in sorted(office.folder.rglob("*")) if path not in before]
    assert [path.name for path in after if "ledger" in path.name or path.name == "out"] == []


def test_a_plan_names_the_stored_files_that_newer_ones_take_the_names_of(project: Project) -> None:
    paths = [project.stored(job) for job in project.jobs()[:2]]

    assert project.planned()["notes"] == []
    for more in (["--set", "steps.edit.input.prompt=a garden"], ["--refresh"]):
        [note] = project.planned(*more)["notes"]
        assert note.startswith("2 stored files would be renamed")
        for path in paths:
            assert f"{path.absolute().as_uri()} (pipeline scenes)" in note


def test_a_plan_says_that_another_file_goes_by_the_same_name(project: Project) -> None:
    project.stored(project.jobs()[0])
    assert project.planned()["notes"] == []
    Path("more.yaml").write_text(PIPELINE)

    [note] = project.plan("--json", path="more.yaml").json["notes"]

    assert note.startswith("scenes.yaml is also named scenes")
    Path("scenes.yaml").unlink()
    assert project.plan("--json", path="more.yaml").json["notes"] == []
