"""The models that are known on this machine, each read once, without asking RunComfy."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from comfyline.errors import InputInvalid, Problem
from comfyline.models.entry import ModelEntry
from comfyline.models.kept import KeptModels
from comfyline.models.library import find_model, list_models
from comfyline.yaml.file import did_you_mean


class OfflineModels:
    """`directories` hold the project's own schemas and win over those that were `kept`."""

    def __init__(self, directories: Sequence[Path], kept: KeptModels) -> None:
        self._directories = tuple(directories)
        self._kept = kept
        self._found: dict[str, ModelEntry | InputInvalid] = {}
        self._names: list[str] | None = None

    async def entry(self, model_id: str) -> ModelEntry:
        """A model's schema. Raises `InputInvalid` when there is none here, or a broken one."""
        if model_id not in self._found:
            self._found[model_id] = await asyncio.to_thread(self._find, model_id)
        found = self._found[model_id]
        if isinstance(found, InputInvalid):
            raise found
        return found

    def _find(self, model_id: str) -> ModelEntry | InputInvalid:
        try:
            if entry := find_model(model_id, self._directories):
                return entry
            kept = self._kept.find(model_id)
        except InputInvalid as error:
            return InputInvalid(_of_model(problem) for problem in error.problems)
        return kept.entry if kept else self._unknown(model_id)

    def _unknown(self, model_id: str) -> InputInvalid:
        if self._names is None:
            self._names = [entry.model_id for entry in self._kept.list()]
            with suppress(InputInvalid):
                self._names += [entry.model_id for entry in list_models(self._directories)]
        hint = f"`comfyline models pull {model_id}` takes it from RunComfy"
        if near := did_you_mean(model_id, self._names):
            hint = f"{near} Otherwise {hint}"
        message = f"{model_id} is not in configs/models/"
        return InputInvalid([Problem("model", message, hint)])


def _of_model(problem: Problem) -> Problem:
    """A mistake of a schema file is told where the model is named, and so has to name the file."""
    if problem.where == "model":
        return problem
    return Problem("model", f"{problem.where}: {problem.message}", problem.hint)
