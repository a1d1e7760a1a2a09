"""models list, show, pull: what RunComfy offers, what a model takes, and its schema on disk."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from comfyline.cli.console import print_json, print_line, results, table
from comfyline.cli.options import Json, Profile
from comfyline.config.load import home, look
from comfyline.config.profile import model_directories
from comfyline.errors import (
    ComfylineError,
    InputInvalid,
    Problem,
    TokenRejected,
    UsageError,
    did_you_mean,
)
from comfyline.models.catalogue import CACHED_MODELS, ModelCache
from comfyline.models.describe import (
    InputField,
    ListedModel,
    entry_changes,
    example_step,
    input_fields,
    listing,
)
from comfyline.models.entry import (
    ModelEntry,
    check_model_id,
    list_models,
    model_path,
    read_json,
    store_model,
)
from comfyline.report.format import count, usd
from comfyline.services import open_catalogue

_PATIENCE = 5.0
"""Seconds for which RunComfy may be away: somebody is waiting at the prompt."""
_LOCAL = Path("configs/models")
_CHANGES = 20

app = App(
    name="models", help="What RunComfy offers: list it, show a model's inputs, pull its schema."
)


@app.command(name="list")
async def list_(
    *,
    search: Annotated[str | None, Parameter(help="Only models with this text in their id.")] = None,
    category: Annotated[
        str | None, Parameter(help="Only models of this category, such as image-to-video.")
    ] = None,
    local: Annotated[
        bool, Parameter(help="Only what is on this machine; RunComfy is not asked.")
    ] = False,
    profile: Profile = "production",
    json_output: Json = False,
) -> int:
    """List the models: those in configs/models/, those kept, and RunComfy's whole catalogue.

    Example: comfyline models list --search nano-banana

    What is `local` lies in configs/models/, what is `cached` was asked for before and works
    offline, and all else is fetched from the `catalogue` when it is first used.
    """
    live: Sequence[ModelEntry] = ()
    away: ComfylineError | None = None
    if not local:
        try:
            async with open_catalogue(look(profile, _PATIENCE)) as catalogue:
                live = await catalogue.search(search, category)
        except (InputInvalid, UsageError):
            raise
        except ComfylineError as error:
            away = error
    listed = _listing(live, search, category)
    if json_output:
        print_json([_as_json(one) for one in listed])
    elif listed:
        results.print(_models_table(listed))
    else:
        print_line("No model matches.")
    if away:
        print_line(f"RunComfy's catalogue is not included. {_why(away)}")
    return away.exit_code if away and not listed else 0


@app.command
async def show(model_id: str, /, *, profile: Profile = "production") -> None:
    """Show a model's inputs with their types, limits and defaults, its price, and an example step.

    Example: comfyline models show google/nano-banana/pro/edit

    Parameters
    ----------
    model_id
        The model, as the catalogue names it.
    """
    check_model_id(model_id)
    try:
        async with open_catalogue(look(profile, _PATIENCE)) as catalogue:
            entry = await catalogue.priced(model_id)
    except (InputInvalid, UsageError):
        raise
    except ComfylineError as error:
        # Who has no token can still read what is on the disk.
        entry = _here(model_id, error)
    results.print(Text(entry.model_id, style="bold"))
    results.print(f"makes   {', '.join(entry.categories) or 'not said'}")
    results.print(f"price   {_price(entry)}\n")
    results.print(_inputs_table(input_fields(entry)))
    results.print(Text("\nIn a pipeline:", style="bold"))
    # Neither wrapped nor coloured, so that it can be copied.
    results.print(example_step(entry), soft_wrap=True, end="")


@app.command
async def pull(*model_id: str, profile: Profile = "production") -> None:
    """Copy models' schemas from RunComfy's catalogue into configs/models/, as it publishes them.

    Example: comfyline models pull google/nano-banana/pro/edit

    Parameters
    ----------
    model_id
        The models, as the catalogue names them.
    """
    if not model_id:
        raise UsageError("Name a model", hint="comfyline models pull google/nano-banana/pro/edit")
    for one in model_id:
        check_model_id(one)
    problems: list[Problem] = []
    async with open_catalogue(look(profile, _PATIENCE)) as catalogue:
        for one in dict.fromkeys(model_id):
            try:
                published = await catalogue.published(one)
            except InputInvalid as error:
                problems += error.problems
                continue
            await asyncio.to_thread(_store, one, dict(published))
    if problems:
        raise InputInvalid(problems)


def _store(model_id: str, published: dict[str, object]) -> None:
    """Write one entry and say what is different from what was there."""
    target = model_path(_LOCAL, model_id)
    before: object = None
    with suppress(InputInvalid):
        before = read_json(target) if target.exists() else None
    try:
        store_model(_LOCAL, model_id, published)
    except OSError as error:
        message = f"the file cannot be written: {error.strerror}"
        raise InputInvalid([Problem(str(target), message)]) from None
    if before is None:
        print_line(f"{target}: written.")
    elif different := entry_changes(before, published):
        print_line(f"{target}: updated, {count(len(different), 'change')}:")
        for line in different[:_CHANGES]:
            print_line(f"    {line}")
        if len(different) > _CHANGES:
            print_line(f"    and {len(different) - _CHANGES} more")
    else:
        print_line(f"{target} is up to date.")


def _listing(
    live: Sequence[ModelEntry] = (), search: str | None = None, category: str | None = None
) -> list[ListedModel]:
    """List what is on this machine, and of RunComfy's catalogue what is `live`."""
    here = list_models(model_directories())
    return listing(here, ModelCache(home() / CACHED_MODELS).list(), live, search, category)


def _here(model_id: str, away: ComfylineError) -> ModelEntry:
    """Find the model on this machine, without a price, when RunComfy cannot be asked."""
    known = {one.entry.model_id: one.entry for one in _listing()}
    if model_id not in known:
        if near := did_you_mean(model_id, list(known)):
            print_line(f"{model_id} is not on this machine; {near}")
        raise away
    print_line(f"The price is unknown, because RunComfy cannot be asked. {_why(away)}")
    return known[model_id]


def _why(away: ComfylineError) -> str:
    """Say why RunComfy was not asked; what to do is said where it is not just to wait."""
    return str(away) if isinstance(away, TokenRejected) else away.message


def _price(entry: ModelEntry) -> str:
    """Write a model's price with its unit; `unknown` where that is not known, which is not free."""
    if entry.base_price_usd is None:
        return "unknown"
    unit = f" per {entry.price_unit}" if entry.price_unit else ", unit unknown"
    note = f" ({entry.pricing_note})" if entry.pricing_note else ""
    return f"{usd(entry.base_price_usd)}{unit}{note}"


def _models_table(listed: Sequence[ListedModel]) -> Table:
    shown = table("model", "makes", "price", "where", wrapping={"makes", "price"})
    for one in listed:
        makes = ", ".join(one.entry.categories)
        shown.add_row(one.entry.model_id, makes, _price(one.entry), one.where)
    return shown


def _inputs_table(fields: Sequence[InputField]) -> Table:
    columns = ("input", "type", "required", "allowed", "default", "what it is")
    shown = table(*columns, wrapping=columns)
    for field in fields:
        default = f"example: {field.default}" if field.is_example else field.default
        shown.add_row(
            field.path,
            field.type,
            "yes" if field.required else "",
            "; ".join(rule.rstrip(".") for rule in field.rules),
            default if field.default else "",
            field.about,
        )
    return shown


def _as_json(one: ListedModel) -> dict[str, object]:
    entry = one.entry
    return {
        "model": entry.model_id,
        "categories": list(entry.categories),
        "price_usd": entry.base_price_usd,
        "price_unit": entry.price_unit,
        "where": one.where,
    }
