"""The side of comfyline in `rerun`: the whole of `comfyline plan`, imports included."""

import contextlib
import importlib
import io
import json
import sys

from benchmarks.contenders.side import start


def main(jobs: int) -> None:
    """Plan once, as somebody at a prompt does."""
    watch = start()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run = importlib.import_module("comfyline.cli.main").run
        code = run(["plan", "pipeline.yaml", "--json"])
    seconds = watch.seconds
    planned = json.loads(said.getvalue())
    if code or planned["reused"] != jobs or planned["to_make"]:
        sys.exit(f"{planned['reused']} of {jobs} jobs were found")
    watch.tell(seconds=seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]))
