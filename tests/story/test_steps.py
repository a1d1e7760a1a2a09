"""Steps that take what others made, over the whole stack."""

import json
import shutil

from tests.story.conftest import Project

CHAIN = """\
name: {name}
source:
  items: {items}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: "{name}, number {{{{ item.n }}}}"
      image_urls: [configs/samples/cat.jpg]
      aspect_ratio: "21:9"
  retouch:
    model: google/nano-banana/pro/edit
    input:
      prompt: "brighter"
      image_urls: ["{{{{ steps.edit.images[0] }}}}"]
      aspect_ratio: "21:9"
  poster:
    model: google/nano-banana/pro/edit
    when: "{{{{ item.n != 3 }}}}"
    for_each: "{{{{ steps.retouch.images }}}}"
    input: {{prompt: "as a poster", image_urls: ["{{{{ each }}}}"], aspect_ratio: "21:9"}}
output:
  to: {to}
"""


def write(project: Project, name: str, items: int, to: str) -> str:
    path = project.directory / f"{name}.yaml"
    numbered = json.dumps([{"name": f"item-{n:02}", "n": n} for n in range(items)])
    path.write_text(CHAIN.format(name=name, items=numbered, to=to))
    return path.name


def test_a_job_that_fails_takes_with_it_only_what_needs_it(project: Project) -> None:
    pipeline = write(project, "many-cats", 4, "outputs/many")
    project.sandbox("POST", "faults", json={"on": "generation", "kind": "fail"})

    ended = project.comfyline("run", pipeline, "--json")

    summary = ended.json
    assert (ended.code, summary["failed"], summary["in_doubt"]) == (1, 1, 0), ended.stderr
    [failed] = [error for error in summary["errors"] if error["kind"] == "generation-failed"]
    skipped = [error for error in summary["errors"] if error["kind"] == "skipped"]
    assert {error["item"] for error in skipped} == {failed["item"]}
    assert summary["skipped"] == len(skipped) >= 1
    assert f"It needs `{failed['item']} · edit`, which failed" in skipped[0]["message"]
    assert summary["jobs"] == 11 == summary["persisted"] + 1 + len(skipped)
    stored = {path.name for path in (project.directory / "outputs/many").glob("*.png")}
    assert len(stored) == summary["persisted"]
    assert not any(name.startswith(failed["item"]) for name in stored)

    again = project.comfyline("run", pipeline, "--json")

    assert (again.code, again.json["reused"]) == (0, summary["persisted"])
    assert again.json["submitted"] == 1 + len(skipped)


def test_media_go_from_step_to_step_inside_object_storage(project: Project) -> None:
    pipeline = write(project, "stored-cats", 1, "s3://comfyline/steps")
    uploads = project.home / "storage/comfyline/uploads"
    before = set(uploads.iterdir()) if uploads.is_dir() else set()

    ended = project.comfyline("run", pipeline, "--json")

    assert ended.code == 0, ended.stderr
    steps = {output["step"]: output for output in ended.json["outputs"]}
    stored = project.home / "storage" / steps["retouch"]["uri"].removeprefix("s3://")
    sidecar = json.loads(stored.with_name(f"{stored.name}.json").read_text())
    [taken] = sidecar["inputs"]["image_urls"]
    assert (taken["origin"], taken["sha256"]) == (steps["edit"]["uri"], steps["edit"]["sha256"])
    # Of all media only the photograph was copied to where inputs are put.
    assert len(set(uploads.iterdir()) - before) <= 1
    assert project.comfyline("run", pipeline, "--json").json["reused"] == len(steps)


DIGEST = """\
name: digest
source: {files: "inbox/*.jpg", new_only: true}
steps:
  edit:
    model: google/nano-banana/pro/edit
    input: {prompt: "digested", image_urls: ["{{ item.path }}"], aspect_ratio: "21:9"}
  all:
    model: google/nano-banana/pro/edit
    collect: true
    input: {prompt: "together", image_urls: "{{ steps.edit.images }}", aspect_ratio: "21:9"}
output: {to: outputs/today}
"""


def test_what_an_earlier_day_has_made_is_left_out(project: Project) -> None:
    (project.directory / "digest.yaml").write_text(DIGEST)
    inbox = project.directory / "inbox"
    inbox.mkdir()
    shutil.copy(project.directory / "configs/samples/cat.jpg", inbox / "a.jpg")
    assert project.comfyline("run", "digest.yaml", "--json").json["persisted"] == 2
    shutil.copy(project.directory / "configs/samples/rocket.jpg", inbox / "b.jpg")
    tomorrow = ("run", "digest.yaml", "--set", "output.to=outputs/tomorrow", "--json")

    first, second = project.comfyline(*tomorrow), project.comfyline(*tomorrow)

    assert (first.code, second.code) == (0, 0)
    names = [output["uri"].rpartition("/")[2] for output in first.json["outputs"]]
    assert names == ["b-edit-0.png", "all-all-0.png"]
    assert (first.json["jobs"], first.json["submitted"]) == (2, 2)
    assert (second.json["reused"], second.json["submitted"]) == (2, 0)
