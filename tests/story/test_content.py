"""A phone's photo goes out as a JPEG, and a picture that shows nothing is not taken for one."""

import json

from tests.media.clips import heic
from tests.story.conftest import Project

SPOILT = {"on": "generation", "kind": "blank"}


def test_a_blank_picture_is_stored_aside_and_paid_for_again_as_often_as_is_allowed(
    project: Project,
) -> None:
    (project.directory / "photo.heic").write_bytes(heic())
    options = {
        "source": {"files": "photo.heic"},
        "matrix.aspect_ratio": ["1:1"],
        "steps.edit.convert": "jpeg",
        "steps.edit.checks": {"not_blank": True, "aspect_ratio": True},
    }
    given = [
        part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    twice = [*given, "--set", "steps.edit.checks.again=1"]
    outputs = project.directory / "outputs/office-scenes"

    project.sandbox("POST", "faults", json=SPOILT)
    once = project.run("an office that is blank once", *twice)
    project.sandbox("POST", "faults", json=SPOILT)
    never = project.run("an office that stays blank", *given)
    later = project.run("an office that stays blank", *given)

    assert once.code == 0, once.stderr
    assert (once.json["persisted"], once.json["submitted"], once.json["errors"]) == (1, 2, [])
    charges = project.charges("an office that is blank once")
    assert once.json["cost_usd"] == sum(row["charge_usd"] for row in charges)
    [stored] = list(outputs.glob("*.json"))
    assert json.loads(stored.read_text())["inputs"]["image_urls"][0]["conversion"] == "jpeg"
    for ended, submitted in ((never, 1), (later, 0)):
        assert (ended.code, ended.json["failed"], ended.json["submitted"]) == (1, 1, submitted)
        [error] = ended.json["errors"]
        assert error["kind"] == "rejected"
        assert "is blank: a single colour" in error["message"]
    assert len(project.charges("an office that stays blank")) == 1
    # The same grey twice, of two requests that were paid for.
    assert len(list((outputs / "rejected").glob("*.png"))) == 2
    assert list((project.home / "copies").iterdir()) == []
