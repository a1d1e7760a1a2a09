"""Past days: a run each, what is there left alone, one budget and one summary for all."""

import json
from pathlib import Path

from tests.story.conftest import PIPELINE, Project

WEEK = "--date=2026-11-01..2026-11-03"
DAYS = ["2026-11-01", "2026-11-02", "2026-11-03"]


def folders(project: Project) -> dict[str, dict[Path, int]]:
    """By day, the files that lie there, with the time of their last change."""
    return {
        folder.name: {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        for folder in (project.directory / "outputs/by-day").iterdir()
    }


def test_days_are_made_in_order_and_what_is_there_is_left_alone(project: Project) -> None:
    by_day = ("--set=output.to=outputs/by-day/{{ run.date }}", "--limit=1")
    prompt = "--set=steps.edit.input.prompt=an office on {{ run.date }}"
    planned = project.comfyline("plan", PIPELINE, prompt, *by_day, WEEK, "--json").json
    first = project.run("an office on {{ run.date }}", *by_day, WEEK)
    made = folders(project)
    again = project.run("an office on {{ run.date }}", *by_day, "--date=2026-11-02..2026-11-04")

    assert first.code == again.code == 0, first.stderr + again.stderr
    assert (first.json["jobs"], first.json["persisted"], first.json["submitted"]) == (6, 6, 6)
    assert [day["date"] for day in first.json["days"]] == DAYS == sorted(made)
    assert [day["persisted"] for day in first.json["days"]] == [2, 2, 2]
    assert first.json["cost_usd"] == planned["estimate_usd"]
    assert [(day["date"], day["to_make"]) for day in planned["days"]] == [(day, 2) for day in DAYS]
    assert len({output["uri"] for output in first.json["outputs"]}) == 6
    assert (again.json["reused"], again.json["persisted"]) == (4, 2)
    assert {day: folders(project)[day] for day in made} == made
    assert len(project.charges("an office on 2026-11-01")) == 2
    # Each day is a run that can be asked for, and its page says for which day.
    names = [
        project.prefect("GET", f"flow_runs/{day['run_id']}")["name"] for day in first.json["days"]
    ]
    assert [name.split(" ")[2] for name in names] == DAYS


def test_all_days_share_one_budget(project: Project) -> None:
    thrifty = ("--limit=1", "--max-cost=0.45", WEEK)
    ended = project.run("a cheap office on {{ run.date }}", *thrifty)

    assert ended.code == 1
    assert ended.json["submitted"] == 3
    assert ended.json["cost_usd"] <= 0.45
    assert {error["kind"] for error in ended.json["errors"]} == {"over-budget"}
    assert [day["persisted"] for day in ended.json["days"]] == [2, 1, 0]


def test_a_day_that_there_is_not_starts_nothing(project: Project) -> None:
    ended = project.comfyline("run", PIPELINE, "--date=2026-02-30")

    assert ended.code == 64
    assert "'2026-02-30' is not a day that there is" in ended.stderr
    assert json.dumps("2026-11-01..2026-11-07")[1:-1] in ended.stderr
