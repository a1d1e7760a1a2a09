"""What a pipeline file's jobs are foreseen to be, with models that take anything."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from comfyline.models.entry import ModelEntry
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.graph import Dag
from comfyline.pipeline.render import RunScope
from comfyline.pipeline.sources import read_items
from comfyline.plan.preview import FindModel, Preview, preview_jobs

RUN = RunScope(id="run-1", date="2026-01-31")


def graph_of(path: Path) -> Dag:
    pipeline = load_pipeline(path)
    return Dag(pipeline, asyncio.run(read_items(pipeline, None)), RUN)


def preview(path: Path, categories: Mapping[str, str] | None = None) -> Preview:
    """The jobs of a file; `categories` says by model id what a model does (`text-to-image`)."""
    return asyncio.run(preview_jobs(graph_of(path), models(categories or {})))


def models(categories: Mapping[str, str]) -> FindModel:
    """Finds every model."""

    async def find(model_id: str) -> ModelEntry:
        category = categories.get(model_id, "image-to-image")
        return ModelEntry(model_id=model_id, categories=(category,), input_schema={})

    return find
