"""The whole chain: the pipeline flow as a user runs it beside a plain asyncio script.

Both have the same photographs, S3 server and sandbox, as many requests in flight, and start at the
same moment, each in a process of its own. The script keeps no ledger, asks no orchestrator and
checks nothing: what it does not do is what the difference pays for.
"""

import asyncio
import os
import time
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.race import Figures, Side, race
from benchmarks.servers import home_of, playground, storage_environment
from benchmarks.table import Table, ratio
from comfyline.stack.services import basic_auth
from comfyline.stack.stack import StackAddresses, ensure

_PHOTOS, _QUICK = 60, 15
# The sandbox paints small pictures fast, so that the clients are measured and not the painter.
_SANDBOX = {"SANDBOX_SLOTS": "16", "SANDBOX_SPEED": "50", "SANDBOX_PIXELS": "256"}
_IN_FLIGHT = 16
_STAGES = 6
_BETTER = "(below 1: comfyline is better)"
_LIMIT = 600.0
"""Seconds after which the orchestrator is given up."""

_PIPELINE = f"""\
name: chain
source:
  files: photos/*.jpg
steps:
  edit:
    model: google/nano-banana/pro/edit
    input:
      prompt: black and white
      image_urls: ["{{{{ item.path }}}}"]
      aspect_ratio: "21:9"
      output_format: jpeg
output:
  to: outputs/flow
  name: "{{{{ item.stem }}}}.{{{{ ext }}}}"
limits: {{in_flight: {_IN_FLIGHT}, timeout: 10m}}
"""


async def measure(*, quick: bool) -> list[Table]:
    """Race once over the photographs, then wait for the orchestrator's own books."""
    photos = _QUICK if quick else _PHOTOS
    os.environ.update(_SANDBOX)
    async with playground() as project:
        await asyncio.to_thread(_prepare, project, photos)
        home = {"COMFYLINE_HOME": str(home_of(project))}
        stack = await ensure(home_of(project), model_dirs=[project / "configs/models"])
        runcomfy = {
            "RUNCOMFY_BASE_URL": str(stack.sandbox_url),
            "RUNCOMFY_API_TOKEN": str(stack.sandbox_token),
        }
        flow = Side("flow", ("pipeline.yaml",), runcomfy | home)
        script = Side("script", (str(_IN_FLIGHT),), runcomfy | storage_environment(project))
        async with asyncio.TaskGroup() as both:
            visible = both.create_task(_until_visible(stack, photos * _STAGES))
            ours, plain = await race(project, flow, script)
        behind = visible.result() - ours["ended_at"]
    return [_table(ours, plain, photos, behind)]


def _prepare(project: Path, photos: int) -> None:
    """Write the pipeline and photographs of a few kilobytes, no two alike."""
    (project / "pipeline.yaml").write_text(_PIPELINE)
    (project / "photos").mkdir()
    texture = Image.radial_gradient("L").resize((320, 240))
    for number in range(photos):
        colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
        photo = Image.composite(
            Image.new("RGB", texture.size, colour), texture.convert("RGB"), texture
        )
        photo.save(project / f"photos/photo-{number}.jpg")


async def _until_visible(stack: StackAddresses, task_runs: int) -> float:
    """Return the wall-clock time at which the orchestrator shows all task runs as completed."""
    wanted = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    url = f"{stack.prefect_api_url}/task_runs/count"
    auth = basic_auth(stack.prefect_auth_string or "")
    client = httpx.AsyncClient(trust_env=False, timeout=60, auth=auth)
    async with client as http, asyncio.timeout(_LIMIT):
        while (await http.post(url, json=wanted)).raise_for_status().json() < task_runs:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return time.time()


def _table(ours: Figures, plain: Figures, photos: int, behind: float) -> Table:
    rows = [
        (
            name,
            f"{one['seconds']:.1f}",
            f"{photos / one['seconds']:.2f}",
            f"{one['cpu'] / photos * 1000:.0f}",
            f"{one['peak_mb']:.0f}",
        )
        for name, one in (("comfyline flow", ours), ("plain asyncio + httpx", plain))
    ]
    return Table(
        f"chain: {photos} photographs, {_IN_FLIGHT} in flight, both at once",
        ("side", "s", "jobs/s", "client CPU ms/job", "peak MB"),
        rows,
        [
            f"plain ÷ comfyline, jobs/s: {ratio(ours['seconds'], plain['seconds'])} {_BETTER}",
            f"comfyline ÷ plain, client CPU: {ratio(ours['cpu'], plain['cpu'])} {_BETTER}",
            f"all {photos * _STAGES} task runs visible in Prefect {behind:.1f} s after the flow",
        ],
    )
