"""Money by owner: labels from the pipeline to the report, in ledger, files and page."""

import csv
import json
import subprocess
import sys

from tests.conftest import prefect_home
from tests.story.conftest import Project

BRIEFS = """\
name: {name}
source:
  items:
    - {{name: one, client: {name}-acme, what: a red door}}
    - {{name: two, client: {name}-acme, what: a blue door}}
    - {{name: three, client: {name}-bolt, what: a blue door}}
labels: {{client: "{{{{ item.client }}}}", team: web}}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: "{name}: {{{{ item.what }}}}"
      image_urls: [configs/samples/cat.jpg]
output: {{to: outputs/{name}}}
"""


def test_every_client_is_told_what_it_paid_and_what_it_did_not_pay_again(project: Project) -> None:
    name = "doors"
    (project.directory / "doors.yaml").write_text(BRIEFS.format(name=name))
    acme, bolt = f"{name}-acme", f"{name}-bolt"
    first = project.comfyline("run", "doors.yaml", "--json")
    assert first.code == 0, first.stderr
    assert project.comfyline("run", "doors.yaml", "--json").json["reused"] == 3

    report = project.comfyline("report", "--since", "1h", "--by", "label.client", "--json").json

    groups = {one["group"]: one for one in report["groups"]}
    # The blue door is paid for once: who asked first has paid.
    made = {client: groups[client]["stored"] for client in (acme, bolt) if client in groups}
    assert sum(made.values()) == 2
    free = {client: groups[client]["reused"] + groups[client]["taken_over"] for client in groups}
    assert (free[acme] + free[bolt], free[bolt] in (1, 2)) == (4, True)
    paid = sum(groups[client]["cost_usd"] for client in (acme, bolt))
    assert round(paid, 6) == round(first.json["cost_usd"], 6) > 0
    assert report["total"]["cost_usd"] >= paid

    rows = (project.home / "runs" / first.json["run_id"] / "index.jsonl").read_text().splitlines()
    assert {(row["item"], row["label_client"]) for row in map(json.loads, rows)} == {
        ("one", acme),
        ("two", acme),
        ("three", bolt),
    }
    sidecar = next((project.directory / f"outputs/{name}").glob("*one*.json"))
    assert json.loads(sidecar.read_text())["labels"] == {"client": acme, "team": "web"}
    listed = project.comfyline("jobs", "--pipeline", name, "--json").json
    assert all(job["labels"]["team"] == "web" for job in listed)  # type: ignore[index]


def test_an_ad_hoc_request_has_the_labels_that_it_is_given(project: Project) -> None:
    asked = ("generate", "google/nano-banana/pro/edit", "-i", "prompt=the door of a labelled house")
    labels = ("x", "y", "a=1", "a=2")
    wrong = project.comfyline(*asked, *(part for label in labels for part in ("--label", label)))
    assert wrong.code == 64
    for told in ("--label x is not name=value; --label y is", "--label a=… is given 2 times"):
        assert told in wrong.stderr
    nowhere = project.comfyline(*asked, "--to", "")
    assert (nowhere.code, "--to names no folder" in nowhere.stderr) == (64, True)
    made = project.comfyline(
        *asked, "-i", "image_urls=@configs/samples/cat.jpg", "--label", "client=ad-hoc", "--json"
    )
    assert made.code == 0, made.stderr

    told = project.comfyline("report", "--since", "1h", "--by", "label.client", "--csv")

    [row] = [row for row in csv.DictReader(told.stdout.splitlines()) if "ad-hoc" in row.values()]
    assert (row["label.client"], row["stored"], float(row["cost_usd"])) == (
        "ad-hoc",
        "1",
        made.json["cost_usd"],
    )


def test_the_daily_flow_leaves_a_page_and_an_artifact(project: Project) -> None:
    exports = project.comfyline("env", COMFYLINE_HOME=str(prefect_home())).stdout.splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in exports)
    environment = {name: value.strip("'") for name, _, value in pairs}
    program = (
        "import asyncio; from flows.report import report\n"
        "for by, to in (('day', 's3://comfyline/reports'), ('model', 's3://comfyline/reports'),\n"
        "        ('week', 'x'), ('day', '/proc/x')):\n"
        "    state = asyncio.run(report(profile='sandbox', since='1h', by=by, to=to,\n"
        "        return_state=True))\n"
        "    print(state.name, state.message)"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project.directory,
        env=project.environment | environment | {"COMFYLINE_HOME": str(project.home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    *done, wrong, away = ended.stdout.splitlines()
    assert [line.split()[0] for line in done] == ["Completed", "Completed"]
    addresses = [line.split()[-1] for line in done]
    # Both of one day, and neither in the place of the other.
    for address, by in zip(addresses, ("day", "model"), strict=True):
        page = (project.home / "storage" / address.removeprefix("s3://")).read_text()
        assert "Cost by day" in page
        assert f"By {by}" in page
    latest = project.prefect("GET", "artifacts/report/latest")
    assert addresses[-1] in latest["data"]
    assert wrong.startswith("Failed Reports are not by 'week'")
    assert away.startswith("Failed file:///proc/x/report-sandbox-day-")
    assert "cannot be written: No such file or directory. Give `to` a folder" in away
