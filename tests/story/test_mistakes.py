"""A user's mistake ends in a sentence that says what to do, with the exit code of the contract."""

from pathlib import Path

import pytest

from comfyline.cli.main import run
from tests.story.conftest import Project

PIPELINE = "configs/pipelines/office-scenes.yaml"


def edited(project: Project, old: str, new: str) -> str:
    path = project.directory / "mine.yaml"
    text = (project.directory / PIPELINE).read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path.name


def test_a_wrong_key_is_named_with_its_place_and_the_right_one(project: Project) -> None:
    ended = project.comfyline("run", edited(project, "limits:", "limit:"), "--json")

    assert ended.code == 65
    assert "mine.yaml:" in ended.stderr
    assert "did you mean `limits`" in ended.stderr
    assert ended.json["errors"][0]["kind"] == "input-invalid"
    assert ended.json["submitted"] == 0


def test_a_missing_photograph_is_said_before_anything_is_spent(project: Project) -> None:
    ended = project.comfyline("run", PIPELINE, "--set", "source.files=configs/samples/cart.jpg")

    assert ended.code == 65
    assert "configs/samples/cart.jpg" in ended.stderr
    assert "cat.jpg" in ended.stderr


def test_a_missing_input_fails_its_job_with_place_and_name(project: Project) -> None:
    only = ("--set", 'steps.edit.input.image_urls=["gone.jpg"]', "--limit", "1", "--json")
    ended = project.comfyline("run", PIPELINE, *only)

    assert ended.code == 65
    assert "gone.jpg" in ended.json["errors"][0]["message"]
    assert ended.json["errors"][0]["stage"] == "validate"


def test_no_token_is_said_before_anything_starts(project: Project) -> None:
    ended = project.comfyline("run", PIPELINE, "--profile", "production", "--json")

    assert ended.code == 77
    assert "RUNCOMFY_API_TOKEN" in ended.stderr
    assert ended.json["errors"][0]["kind"] == "token"


def test_another_profile_is_never_replaced_by_the_sandbox(project: Project) -> None:
    ended = project.comfyline("run", PIPELINE, "--profile", "productoin")

    assert ended.code == 64
    assert "did you mean `production`" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["rnu", "x.yaml"], ["run", "x.yaml", "--limt", "2"], ["resolve", "abc"]],
)
def test_wrong_arguments_are_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 64
    assert "Traceback" not in capsys.readouterr().err


def test_a_token_that_is_refused_is_77_and_nothing_is_charged(project: Project) -> None:
    prompt = "an office without permission"
    wrong = {
        "RUNCOMFY_BASE_URL": str(project.addresses.sandbox_url),
        "RUNCOMFY_API_TOKEN": "not-the-right-one",
    }
    wanted = f"--set=steps.edit.input.prompt={prompt}"
    ended = project.comfyline("run", PIPELINE, wanted, "--limit", "1", "--json", **wrong)

    assert ended.code == 77, ended.stderr
    assert {error["kind"] for error in ended.json["errors"]} == {"token"}
    assert "not-the-right-one" not in ended.stdout + ended.stderr
    assert project.charges(prompt) == []


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    commands = ["run", "plan", "check", "generate", "jobs", "cancel", "reconcile", "resolve"]
    commands += ["sandbox", "up", "down", "status", "env", "models list", "models show", "schemas"]
    for command in [*commands, "models pull", "audit", "verify", "ledger remove"]:
        assert run([*command.split(), "--help"]) == 0
        assert "Example: " in capsys.readouterr().out, command
        assert command.split()[0] in readme
