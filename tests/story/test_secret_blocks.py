"""A profile whose secrets lie in Prefect's Secret blocks, at a real Prefect server."""

import subprocess
import sys
from pathlib import Path

from comfyline.stack.stack import StackAddresses
from tests.conftest import prefect_variables
from tests.story.conftest import PIPELINE, Project

PROFILE = """\
extends: configs/profiles/sandbox.yaml
runcomfy: {{base_url: "{url}", token_env: null, token_block: rc-token}}
ledger: {{block: ledger-url}}
"""


def make_blocks(project: Project, stack: StackAddresses, **secrets: str) -> None:
    """Saves blocks as Prefect's own documentation has it."""
    lines = ["from prefect.blocks.system import Secret"]
    lines += [
        f"Secret(value={secret!r}).save({name.replace('_', '-')!r})"
        for name, secret in secrets.items()
    ]
    there = prefect_variables(stack) | {"PREFECT_HOME": str(project.home / "prefect-client")}
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=project.environment | there,
        timeout=120,
        check=True,
        capture_output=True,
    )


def test_a_run_takes_token_and_ledger_from_blocks_and_shows_neither(
    project: Project, stack: StackAddresses
) -> None:
    wanted = "--set=steps.edit.input.prompt=an office with a safe"
    mine = ("--profile", "mine", "--json")
    Path(project.directory, "configs/profiles/mine.yaml").write_text(
        PROFILE.format(url=project.addresses.sandbox_url)
    )

    missing = project.comfyline("run", PIPELINE, wanted, "--limit", "1", *mine)
    assert missing.code == 64, missing.stderr
    assert "no Prefect Secret block `rc-token`" in missing.json["errors"][0]["message"]

    make_blocks(
        project,
        stack,
        rc_token="sandbox-token",
        ledger_url=f"sqlite:///{project.home / 'ledger.sqlite3'}?timeout=7",
    )
    ended = project.comfyline("run", PIPELINE, wanted, "--limit", "1", *mine)

    assert (ended.code, ended.json["persisted"]) == (0, 2), ended.stderr
    assert len(project.accepted("an office with a safe")) == 2
    for shown in ("sandbox-token", "timeout=7"):
        assert shown not in ended.stdout + ended.stderr
