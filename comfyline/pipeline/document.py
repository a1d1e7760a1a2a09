"""The pipeline format: what may be written, and the sentences for what may not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from comfyline.config.duration import Seconds
from comfyline.errors import InputInvalid
from comfyline.job import OnConflict
from comfyline.pipeline.matrix import Matrix
from comfyline.pipeline.references import find_graph_errors
from comfyline.pipeline.sections import Filled, Identifier, Section, Slug
from comfyline.pipeline.step import Step
from comfyline.pipeline.template_errors import find_template_errors
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml
from comfyline.yaml.validate import validate_document


def _plain(pattern: str) -> str:
    if "{{" in pattern:
        raise ValueError("should be a plain pattern; templates are not available here")
    if any(ord(character) < ord(" ") for character in pattern):
        raise ValueError("should not hold control characters")
    if "://" in pattern and not pattern.startswith("s3://"):
        raise ValueError("should be local, or begin with s3://")
    return pattern


Pattern = Annotated[Filled, AfterValidator(_plain)]


def _picture(name: str) -> str:
    if not re.fullmatch(r"[^/\\{}]+\.(jpe?g|png|webp)", name):
        raise ValueError("should be a plain file name that ends with .jpg, .png or .webp")
    return name


PictureName = Annotated[Filled, AfterValidator(_picture)]


class Source(Section):
    """The items; exactly one kind of source."""

    files: Annotated[
        Pattern | None,
        Field(
            description="A glob for local files or objects: photos/**/*.{jpg,png}, s3://inbox/*.jpg"
        ),
    ] = None
    table: Annotated[
        Pattern | None,
        Field(description="A CSV, JSONL or Parquet file, local or s3://; one item a row."),
    ] = None
    items: Annotated[
        list[dict[str, Any]] | None,
        Field(description="The items themselves: a list of mappings with fields of any name."),
    ] = None
    new_only: Annotated[
        bool,
        Field(
            description="Leave out items of which everything was made by an earlier run and lies "
            "elsewhere, as in yesterday's folder."
        ),
    ] = False

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if [self.files, self.table, self.items].count(None) != 2:  # noqa: PLR2004
            raise ValueError("should have exactly one of `files`, `table` and `items`")
        return self


class Output(Section):
    """Where outputs are stored, and under which name."""

    to: Annotated[
        Filled,
        Field(
            description="A folder, s3://bucket/prefix, or another address that fsspec has a driver "
            "for (gs://, az://); a template."
        ),
    ]
    name: Annotated[
        Filled | None,
        Field(description="The file name's template; by default item, matrix values, step, index."),
    ] = None
    on_conflict: Annotated[
        OnConflict,
        Field(
            description="A file of somebody else's under an output's name: keep it (and fail), "
            "replace it, or store the output as another version (name-2.png)."
        ),
    ] = "version"
    accept: Annotated[
        list[Literal["svg"]],
        Field(
            description="What may be stored beside pictures, videos and sounds: `svg`, a drawing "
            "that may run scripts in whatever shows it."
        ),
    ] = []  # noqa: RUF012  # pydantic copies a default
    contact_sheet: Annotated[
        PictureName | None,
        Field(
            description="The file name of a picture that shows all outputs of a run side by side.",
            examples=["contact-sheet.jpg"],
        ),
    ] = None


class Limits(Section):
    """What a run of this pipeline may take up."""

    in_flight: Annotated[
        int, Field(ge=1, description="How many requests may be at RunComfy at a time.")
    ] = 16
    timeout: Annotated[
        Seconds, Field(description="For one job, from submit to completed: 90s, 30m, 1h30m.")
    ] = 1800.0
    max_cost_usd: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="What a run may cost at most, in US dollars."),
    ] = None
    max_cost_usd_per_day: Annotated[
        float | None,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="What all runs of this pipeline may cost on one day (UTC), in US dollars.",
        ),
    ] = None
    cost_ceilings: Annotated[
        dict[Filled, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(description="By model id: what to set aside for a job whose price is unknown."),
    ] = {}  # noqa: RUF012  # pydantic copies a default


class PipelineDocument(Section):
    """A whole pipeline file."""

    name: Annotated[Slug, Field(description="What the pipeline is called in the ledger.")]
    source: Annotated[Source, Field(description="What the pipeline works on.")]
    matrix: Annotated[
        Matrix, Field(description="Lists of values, each combination crossed with every item.")
    ] = Matrix()
    env: Annotated[
        list[Identifier],
        Field(description="Environment variables that templates may use: {{ env.SEASON }}."),
    ] = []  # noqa: RUF012  # pydantic copies a default
    steps: Annotated[
        dict[Identifier, Step],
        Field(min_length=1, description="The model calls by name; one may use what others made."),
    ]
    output: Annotated[Output, Field(description="Where outputs are stored.")]
    limits: Annotated[Limits, Field(description="What a run may take up.")] = Limits()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose document is right; `yaml` knows where each value was written."""

    document: PipelineDocument
    yaml: LocatedYaml
    path: Path

    @property
    def name(self) -> str:
        """What the pipeline calls itself."""
        return self.document.name


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads a pipeline file; raises InputInvalid with every mistake that needs no item to be seen.

    An override that cannot be applied raises UsageError.
    """
    return read_pipeline(apply_overrides(load_yaml(path), overrides))


def read_pipeline(located: LocatedYaml) -> Pipeline:
    """The same for YAML that has been read."""
    problems = [*find_template_errors(located), *find_graph_errors(located)]
    try:
        document = validate_document(located, PipelineDocument)
    except InputInvalid as error:
        raise InputInvalid([*error.problems, *problems]) from None
    if problems:
        raise InputInvalid(problems)
    return Pipeline(document, located, located.path)
