from pathlib import Path

import pytest

from comfyline.storage.place import local_path
from tests.cli.conftest import Office, asked


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_files_are_verified_by_the_ledger_or_by_their_sidecars_alone(
    office: Office, where: str, monkeypatch: pytest.MonkeyPatch
):
    folder = f"{office.bucket}/out" if where == "bucket" else (office.folder / "out").as_uri()
    office.stored(asked("right"), "request-1", folder=folder)
    wrong = office.stored(asked("wrong"), "request-2", b"a picture", folder=folder)
    by_ledger, by_sidecar = ("verify", "--json"), ("verify", folder, "--json")
    assert [office.comfyline(*each).json["right"] for each in (by_ledger, by_sidecar)] == [2, 2]
    office.put(b"a pictu_e", wrong.uri)

    found = [office.comfyline(*by_ledger)]
    monkeypatch.delenv("RUNCOMFY_API_TOKEN")
    (office.folder / "home/ledger.sqlite3").unlink()
    found.append(office.comfyline(*by_sidecar))

    for verified in found:
        assert verified.code == 1
        assert [one["uri"] for one in verified.json["wrong"]] == [wrong.uri]
        assert (verified.json["changed"], verified.json["right"]) == (1, 1)


def test_what_is_gone_or_bare_or_broken_is_told_apart(office: Office):
    names = ("gone", "bare", "broken")
    paths = {n: local_path(office.stored(asked(n), f"request-{n}").uri) for n in names}
    paths["gone"].unlink()
    Path(f"{paths['bare']}.json").unlink()
    Path(f"{paths['broken']}.json").write_text("{}")
    (office.folder / "out/notes.json").write_text('{"anything": "else"}')
    (office.folder / "out/.comfyline-x.part").write_text("half")

    found = office.comfyline("verify", str(office.folder / "out"), "--json").json
    said = office.comfyline("verify")

    assert {(one["uri"].rpartition("/")[2], one["verdict"]) for one in found["wrong"]} == {
        (paths["gone"].name, "missing"),
        (paths["bare"].name, "no_sidecar"),
        (paths["broken"].name, "unreadable"),
        ("notes.json", "no_sidecar"),
    }
    assert (said.code, "comfyline run` fetches it again" in said.stderr) == (1, True)
    assert "1 missing" in said.stderr


@pytest.mark.parametrize(
    ("place", "verdict"),
    [("/no/such/folder", "missing"), ("s3://no-such-bucket-of-ours/out", "unreadable")],
)
def test_a_place_with_nothing_in_it_is_not_right_nor_one_that_does_not_answer(
    office: Office, place: str, verdict: str
):
    verified = office.comfyline("verify", place, "--json")
    assert (verified.code, [one["verdict"] for one in verified.json["wrong"]]) == (1, [verdict])


def test_only_the_outputs_of_one_pipeline_are_read_and_places_are_not_mixed_in(office: Office):
    office.stored(asked("one"), "request-1")
    office.stored(asked("two", pipeline="another"), "request-2")

    assert office.comfyline("verify", "--pipeline", "another", "--json").json["files"] == 1
    assert office.comfyline("verify", "out", "--run", "run-1").code == 64
