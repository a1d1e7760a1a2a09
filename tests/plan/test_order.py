import asyncio
import json
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from comfyline.models.entry import ModelEntry
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.sources import read_items
from comfyline.plan.check import validate_pairs
from comfyline.plan.preview import graph_of
from comfyline.plan.schedule import Schedule
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.reading import look_at_file
from tests.media.clips import picture

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENTRY = ModelEntry(
    model_id="acme/edit",
    input_schema={
        "properties": {
            "prompt": {"type": "string"},
            "size": {"type": "integer"},
            "options": {"type": "object"},
            "image": {"type": "string", "format": "image_uri"},
        }
    },
)
PHOTOS = {
    f"{name}.png": picture("PNG", (size, 64))
    for name, size in zip("abc", (64, 65, 66), strict=True)
}


async def look_up(origins: Iterable[str]) -> dict[str, Facts | Trouble]:
    return {origin: look_at_file(origin)[0] for origin in origins}


def document(folder: Path, files: list[str], sizes: list[int], fields: list[str]) -> dict[str, Any]:
    asked = {
        "prompt": "a door for {{ item.stem }}",
        "size": "{{ matrix.size }}",
        "options": dict.fromkeys(fields, 1),
        "image": "{{ item.path }}",
    }
    items = [{"path": str(folder / name), "stem": Path(name).stem} for name in files]
    return {
        "name": "order",
        "source": {"items": items},
        "matrix": {"size": sizes},
        "steps": {"edit": {"model": "acme/edit", "input": {name: asked[name] for name in fields}}},
        "output": {"to": "out", "name": "{{ item.stem }}-{{ matrix.size }}.{{ ext }}"},
    }


async def keys(path: Path) -> dict[tuple[str, str], str]:
    """The key of each job by its photo and its size."""
    pipeline = load_pipeline(path)
    dag = graph_of(pipeline, await read_items(pipeline, None), "run", NOON)
    jobs = Schedule(dag, {node: dag.jobs(node, {}).jobs for node in dag.nodes()}).begin().jobs
    verdicts = await validate_pairs([(job, ENTRY) for job in jobs], look_up)
    assert not verdicts.mistakes
    return {
        (job.inputs["prompt"], str(job.inputs["size"])): one.key
        for job, one in zip(jobs, verdicts.checked, strict=True)
        if one
    }


@settings(max_examples=25, deadline=None)
@given(
    files=st.permutations(sorted(PHOTOS)),
    sizes=st.permutations([1, 2, 3]),
    fields=st.permutations(["prompt", "size", "options", "image"]),
)
def test_the_order_of_items_values_and_fields_changes_no_key(
    files: list[str], sizes: list[int], fields: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Written in the order of the items, so that the file system may list them so as well.
        for photo in files:
            (folder / photo).write_bytes(PHOTOS[photo])
        mixed, plain = folder / "mixed.yaml", folder / "plain.yaml"
        written = document(folder, files, sizes, fields)
        mixed.write_text(json.dumps(dict(reversed(written.items()))))
        ordered = ["prompt", "size", "options", "image"]
        plain.write_text(json.dumps(document(folder, sorted(PHOTOS), [1, 2, 3], ordered)))

        assert asyncio.run(keys(mixed)) == asyncio.run(keys(plain))
