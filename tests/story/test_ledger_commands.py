"""What `jobs` and `cancel` say of the ledger, as programs and people read it."""

from tests.story.conftest import Project

PIPELINE = "configs/pipelines/office-scenes.yaml"
FIELDS = {
    "job",
    "pipeline",
    "item",
    "step",
    "model",
    "state",
    "request_id",
    "cost_usd",
    "created_at",
    "updated_at",
    "outputs",
    "error",
}


def test_jobs_lists_what_the_contract_names(project: Project) -> None:
    made = project.run("an office in the ledger", "--limit", "1").json

    listed = project.comfyline(
        "jobs", "--state", "persisted", "--pipeline", "office-scenes", "--json"
    )

    mine = [row for row in listed.json if row["job"] in {out["job"] for out in made["outputs"]}]
    assert len(mine) == 2
    for row in mine:
        assert set(row) >= FIELDS
        assert (row["state"], row["cost_usd"], row["error"]) == ("persisted", 0.14, None)
        assert row["outputs"][0]["uri"] in {output["uri"] for output in made["outputs"]}
    assert project.comfyline("jobs", "--pipeline", "no-such-pipeline", "--json").json == []


def test_cancel_says_what_it_could_and_could_not_do(project: Project) -> None:
    prompt = "an office that is called off"
    slow = {"on": "generation", "kind": "delay", "seconds": 12, "times": 4}
    project.sandbox("POST", "faults", json=slow)
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    with project.start("run", PIPELINE, wanted, "--limit=3", "--json") as run:
        charges = project.until(lambda: rows if len(rows := project.charges(prompt)) == 6 else None)
        project.until(
            lambda: (
                {row["status"] for row in project.charges(prompt)} == {"in_queue", "in_progress"}
            )
        )
        keys = {a.request_id: a.checked.key for a in project.attempts()}
        by_status = {row["status"]: keys[row["request_id"]] for row in project.charges(prompt)}
        queued = project.comfyline("cancel", by_status["in_queue"][:16])
        running = project.comfyline("cancel", by_status["in_progress"][:16])
        run.communicate(timeout=120)

    assert len(charges) == 6
    assert (queued.code, running.code) == (0, 1)
    assert "not cancellable" in running.stderr
    assert run.returncode == 1
