import asyncio
from pathlib import Path

import pytest

from comfyline.services import open_places
from comfyline.storage.place import local_path
from tests.cli.conftest import Office, asked


def put(office: Office, text: str, uri: str) -> None:
    async def work() -> None:
        async with open_places(office.storage) as places:
            await places.of(uri).put_text(text, uri, "text/plain")

    asyncio.run(work())


def test_whole_files_are_right_by_the_ledger_and_by_their_sidecars_alone(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    office.stored(asked("one"), "request-1")
    office.stored(asked("two"), "request-2", folder=f"{office.bucket}/out")

    by_ledger = office.comfyline("verify", "--json")
    monkeypatch.delenv("RUNCOMFY_API_TOKEN")
    (office.folder / "home/ledger.sqlite3").unlink()
    by_sidecar = office.comfyline("verify", str(office.folder / "out"), f"{office.bucket}/out")

    assert (by_ledger.code, by_ledger.json["right"], by_ledger.json["wrong"]) == (0, 2, [])
    assert by_sidecar.code == 0
    assert "2 right" in by_sidecar.stderr


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_single_changed_byte_is_found(office: Office, where: str):
    folder = f"{office.bucket}/out" if where == "bucket" else ""
    right = office.stored(asked("right"), "request-1", folder=folder)
    wrong = office.stored(asked("wrong"), "request-2", b"a picture", folder=folder)
    put(office, "a pictu_e", wrong.uri)

    for target in ([], [right.uri.rpartition("/")[0]]):
        verified = office.comfyline("verify", *target, "--json")
        assert verified.code == 1
        assert [one["uri"] for one in verified.json["wrong"]] == [wrong.uri]
        assert (verified.json["changed"], verified.json["right"]) == (1, 1)


def test_what_is_gone_or_bare_or_broken_is_told_apart(office: Office):
    names = ("gone", "bare", "broken")
    paths = {n: local_path(office.stored(asked(n), f"request-{n}").uri) for n in names}
    sidecars = {name: Path(f"{path}.json") for name, path in paths.items()}
    paths["gone"].unlink()
    sidecars["bare"].unlink()
    sidecars["broken"].write_text("{}")
    (office.folder / "out/notes.json").write_text('{"anything": "else"}')
    (office.folder / "out/.comfyline-x.part").write_text("half")

    found = office.comfyline("verify", str(office.folder / "out"), "--json").json

    assert {(one["uri"].rpartition("/")[2], one["verdict"]) for one in found["wrong"]} == {
        (paths["gone"].name, "missing"),
        (paths["bare"].name, "no_sidecar"),
        (paths["broken"].name, "unreadable"),
        ("notes.json", "no_sidecar"),
    }


def test_what_does_is_said_for_what_is_wrong(office: Office):
    local_path(office.stored(asked("gone"), "request-1").uri).unlink()

    said = office.comfyline("verify")

    assert (said.code, "comfyline run` fetches it again" in said.stderr) == (1, True)
    assert "1 missing" in said.stderr


def test_a_place_with_nothing_in_it_is_not_right(office: Office):
    verified = office.comfyline("verify", str(office.folder / "nowhere"), "--json")

    assert (verified.code, verified.json["missing"]) == (1, 1)


def test_a_storage_that_does_not_answer_is_unreadable_and_not_missing(office: Office):
    verified = office.comfyline("verify", "s3://no-such-bucket-of-ours/out", "--json")

    assert verified.code == 1
    assert verified.json["missing"] == 0
    assert verified.json["unreadable"] == 1


def test_places_and_the_ledgers_selections_are_not_mixed(office: Office):
    assert office.comfyline("verify", "out", "--run", "run-1").code == 64


def test_only_the_outputs_of_one_pipeline_are_read(office: Office):
    office.stored(asked("one"), "request-1")
    office.stored(asked("two", pipeline="another"), "request-2")

    assert office.comfyline("verify", "--pipeline", "another", "--json").json["files"] == 1
