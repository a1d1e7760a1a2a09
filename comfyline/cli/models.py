"""models list, show, pull: the model schemas."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.table import Table

from comfyline.cli.options import Profile
from comfyline.cli.speech import results, say
from comfyline.config_files import model_directories
from comfyline.environment import prepare
from comfyline.errors import UsageError
from comfyline.models.library import check_model_id, find_model, list_models, model_path
from comfyline.report.atomic import appearing_whole
from comfyline.services import open_services
from comfyline.yamlfile import did_you_mean

app = App(name="models", help="The model schemas in configs/models/.")


@app.command(name="list")
def list_() -> int:
    """List the models whose schema is here.

    Example: comfyline models list
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("makes")
    for entry in list_models(model_directories(Path.cwd())):
        table.add_row(entry.model_id, ", ".join(entry.categories))
    results.print(table)
    return 0


@app.command
def show(model_id: str, /) -> int:
    """Show a model's inputs: types, limits, defaults.

    Example: comfyline models show google/nano-banana/pro/edit

    Parameters
    ----------
    model_id
        The model, as the catalogue names it.
    """
    directories = model_directories(Path.cwd())
    entry = find_model(model_id, directories)
    if entry is None:
        known = [one.model_id for one in list_models(directories)]
        hint = did_you_mean(model_id, known) or f"`comfyline models pull {model_id}` fetches it."
        raise UsageError(f"There is no schema of {model_id} in configs/models/", hint=hint)
    table = Table(title=model_id, box=None, pad_edge=False, header_style="bold")
    for column in ("input", "type", "allowed", "default", "what it is"):
        table.add_column(column)
    required = entry.input_schema.get("required", [])
    for name, field in entry.input_schema.get("properties", {}).items():
        table.add_row(
            f"{name} *" if name in required else name,
            str(field.get("format") or field.get("type", "")),
            _allowed(field),
            "" if name in required else json.dumps(field.get("default")),
            str(field.get("description") or field.get("title") or ""),
        )
    results.print(table)
    results.print("* required", style="dim")
    return 0


@app.command
def pull(model_id: str, /, *, profile: Profile = "production") -> int:
    """Take a model's schema from the live catalogue into configs/models/.

    Example: comfyline models pull google/nano-banana/pro/edit

    Parameters
    ----------
    model_id
        The model, as the catalogue names it.
    """
    check_model_id(model_id)

    async def work() -> Mapping[str, Any]:
        async with open_services(await prepare(profile, say), reading=True) as services:
            return await services.client.catalogue_entry(model_id)

    entry = asyncio.run(work())
    target = model_path(Path("configs/models"), model_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    with appearing_whole(target) as part:
        part.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{target} is written.")
    return 0


def _allowed(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    bounds = [
        f"{word} {field[name]}"
        for name, word in (
            ("minimum", "from"),
            ("maximum", "to"),
            ("minItems", "at least"),
            ("maxItems", "at most"),
        )
        if name in field
    ]
    return " ".join(bounds)
