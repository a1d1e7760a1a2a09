"""Where configuration files are looked for: the working directory first, then what is built in.

An installed comfyline carries a copy of `configs/` as `comfyline/defaults`; in a checkout the
folder itself serves. So `comfyline generate` also works in an empty directory.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def config_directories(working_directory: Path) -> tuple[Path, ...]:
    """List the folders that may hold `models/` and `profiles/`, in the order in which they win."""
    installed = _PACKAGE / "defaults"
    # Beside an installed package lie other people's packages, and one may be called `configs`.
    built_in = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    candidates = (working_directory / "configs", built_in)
    found: dict[Path, None] = {}
    for candidate in candidates:
        if candidate.is_dir():
            found.setdefault(candidate.resolve())
    return tuple(found)


def model_directories(working_directory: Path) -> tuple[Path, ...]:
    """Return the folders with model schemas, in the order in which they win."""
    return tuple(directory / "models" for directory in config_directories(working_directory))
