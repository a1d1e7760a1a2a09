"""`python -m comfyline.sandbox`: the sandbox in the foreground.

`SANDBOX_SLOTS`, `SANDBOX_SPEED` and `SANDBOX_PIXELS` stand for the options of these names, also
for a sandbox that `comfyline up` starts.
"""

import argparse
import os
import sys
from pathlib import Path

from comfyline.sandbox.server import SandboxOptions, serve

_SWITCHES = ("slots", "speed", "pixels")


def _options(arguments: list[str]) -> SandboxOptions:
    # What is not given is left out of the namespace: the defaults stand in one place only.
    parser = argparse.ArgumentParser(
        prog="comfyline.sandbox",
        description="Plays the RunComfy Model API on this machine.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--state", type=Path, required=True, help="directory of the state")
    add("--models", type=Path, nargs="+", action="extend", required=True, help="catalogue entries")
    add("--port", type=int)
    add("--token")
    add("--slots", type=int, help="requests at a time")
    add("--speed", type=float, help="2 is twice as fast")
    add("--pixels", type=int, help="longer edge of a 1K picture")
    add("--balance-usd", type=float)
    switches = {name: os.environ.get(f"SANDBOX_{name.upper()}") for name in _SWITCHES}
    parser.set_defaults(**{name: value for name, value in switches.items() if value})
    given = vars(parser.parse_args(arguments))
    options = SandboxOptions(**{**given, "models": tuple(given["models"])})
    if not 0 < options.port < 2**16:
        parser.error(f"--port must be 1 to 65535, and is {options.port}")
    if options.slots < 1 or options.speed <= 0 or options.pixels < 1:
        parser.error("--slots and --pixels must be at least 1, and --speed greater than 0")
    return options


if __name__ == "__main__":
    sys.exit(serve(_options(sys.argv[1:])))
