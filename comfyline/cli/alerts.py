"""alerts apply: Prefect automations that tell somebody when something needs a person."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import httpx
from cyclopts import App, Parameter

from comfyline.cli.console import print_json, print_line, print_result
from comfyline.cli.options import Json
from comfyline.config.profile import config_directories
from comfyline.errors import InputInvalid, Problem, Unreachable, UsageError
from comfyline.storage.connection_errors import what_broke
from comfyline.yaml.file import LocatedYaml, read_yaml

_DONE: Mapping[str, tuple[str, str, str]] = {
    "created": ("+", "created", "would be created"),
    "updated": ("~", "updated", "would be updated"),
    "unchanged": ("=", "unchanged", "unchanged"),
    "removed": ("-", "removed", "would be removed"),
    "left": ("?", "is in no file; --prune removes it", "is in no file; --prune removes it"),
}

app = App(name="alerts", help="Who is told when a run failed, money is in doubt or time runs out.")


@app.command
async def apply(
    *files: Path,
    notify: Annotated[
        str | None,
        Parameter(help="The Prefect block that is told, as TYPE/NAME: slack-webhook/comfyline."),
    ] = None,
    prune: Annotated[
        bool, Parameter(help="Remove automations called `comfyline: …` that are in no file.")
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would be done, and change nothing.")] = False,
    json_output: Json = False,
) -> None:
    """Bring the automations at the Prefect server to what the files say; repeat it at will.

    Example: comfyline alerts apply --notify slack-webhook/comfyline

    Parameters
    ----------
    files
        YAML files with automations; without any, those of configs/automations/.
    """
    from comfyline.cli.prefect import connect

    located = _read(files or _usual_files())
    await connect(())
    from flows.alerts import apply_alerts

    try:
        changes = await apply_alerts(located, notify, prune=prune, dry_run=dry_run)
    except httpx.HTTPError as error:
        raise Unreachable(
            f"The Prefect server stopped answering: {what_broke(error)}",
            hint="Apply them again: what is there already is left as it is.",
        ) from error
    say = print_line if json_output else print_result
    for change in changes:
        sign, *words = _DONE[change.action]
        what = f": {', '.join(change.differences)}" if change.differences else ""
        say(f"{sign} {change.name}: {words[dry_run]}{what}")
    if json_output:
        print_json(
            [
                {"name": one.name, "action": one.action, "differences": list(one.differences)}
                for one in changes
            ]
        )


def _usual_files() -> tuple[Path, ...]:
    """List the files of the first folder that has some: the project's, else the embedded ones."""
    for folder in config_directories():
        if found := sorted(folder.glob("automations/*.yaml")):
            return tuple(found)
    raise UsageError("There are no files in configs/automations/", hint="Name a file.")


def _read(files: tuple[Path, ...]) -> list[LocatedYaml]:
    """Read all files; raise `InputInvalid` with what is wrong in any of them."""
    problems: list[Problem] = []
    located: list[LocatedYaml] = []
    for path in files:
        read = read_yaml(path)
        problems += read.problems
        if read.located is not None:
            located.append(read.located)
    if problems:
        raise InputInvalid(problems)
    return located
