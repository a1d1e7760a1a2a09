"""schemas: what editors complete and underline pipelines and profiles by."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comfyline.cli.console import print_line
from comfyline.config.profile import model_directories
from comfyline.errors import InputInvalid, Problem
from comfyline.files import appearing_whole
from comfyline.models.entry import list_models
from comfyline.plan.editor_schema import schema_files

_FOLDER = Path("configs/schemas")


def schemas(
    *,
    check: Annotated[bool, Parameter(help="Write nothing; exit code 65 when one is old.")] = False,
) -> None:
    """Write the JSON Schemas for editors to configs/schemas/, with the models of configs/models/.

    Example: comfyline schemas
    """
    files = schema_files(list_models(model_directories()))
    old = [name for name, text in files.items() if _kept(_FOLDER / name) != text]
    if check and old:
        hint = "`comfyline schemas` writes it anew"
        raise InputInvalid(Problem(str(_FOLDER / name), "is not current", hint) for name in old)
    for name in [] if check else old:
        target = _FOLDER / name
        with appearing_whole(target) as part:
            part.write_text(files[name], encoding="utf-8")
        print_line(f"{target} is written.")
    if not old:
        print_line(f"{_FOLDER}/ is current.")


def _kept(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
