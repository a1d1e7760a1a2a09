"""The pipeline format: what may be written, and the sentences for what may not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from comfyline.config.duration import Seconds
from comfyline.errors import InputInvalid
from comfyline.job import ContentChecks, Item, OnConflict, Preparation
from comfyline.pipeline.labels import LABEL_NAME, label_name
from comfyline.pipeline.references import find_reference_mistakes
from comfyline.yaml.file import LocatedYaml, apply_overrides, load_yaml
from comfyline.yaml.validate import validate_document

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_PICTURE = re.compile(r"[^/\\{}]+\.(jpe?g|png|webp)")
_SHARE = "label."
_FOLDER = (
    "A folder, s3://bucket/prefix, or another address that fsspec has a driver for (gs://, az://); "
    "a template."
)


def _slug(name: str) -> str:
    if not _SLUG.fullmatch(name):
        raise ValueError(f"should be letters, digits, `-`, `_` and `.` only, not {name!r}")
    return name


def _identifier(name: str) -> str:
    # It is written behind a dot in templates: {{ matrix.aspect_ratio }}.
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError("should be letters, digits and `_` only, and not begin with a digit")
    return name


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("should not be empty")
    return text


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError("should contain text, numbers, true or false")  # noqa: TRY004 — for pydantic
    return value


def _distinct(values: list[Any]) -> list[Any]:
    # By type too: in Python `1`, `1.0` and `true` are equal.
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError("lists a value twice, which would make the same job twice")
    return values


def _share(by: str) -> str:
    if not (by.startswith(_SHARE) and LABEL_NAME.fullmatch(by.removeprefix(_SHARE))):
        raise ValueError("should name a label, such as label.client")
    return by


def _plain(pattern: str) -> str:
    if "{{" in pattern:
        raise ValueError("should be a plain pattern; templates are not available here")
    if any(ord(character) < ord(" ") for character in pattern):
        raise ValueError("should not contain control characters")
    if "://" in pattern and not pattern.startswith("s3://"):
        raise ValueError("should be local, or begin with s3://")
    return pattern


def _picture(name: str) -> str:
    if not _PICTURE.fullmatch(name):
        raise ValueError("should be a plain file name that ends with .jpg, .png or .webp")
    return name


Slug = Annotated[
    str, AfterValidator(_slug), Field(json_schema_extra={"pattern": f"^{_SLUG.pattern}$"})
]
Filled = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
Identifier = Annotated[str, AfterValidator(_identifier)]
LabelName = Annotated[str, AfterValidator(label_name)]
Scalar = Annotated[Any, BeforeValidator(_scalar)]
Pattern = Annotated[Filled, AfterValidator(_plain)]
PictureName = Annotated[Filled, AfterValidator(_picture)]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A mapping in which every key is known and no value is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """The items; exactly one kind of source."""

    files: Pattern | None = Field(
        None,
        description="A glob for local files or objects: photos/**/*.{jpg,png}, s3://inbox/*.jpg",
    )
    table: Pattern | None = Field(
        None, description="A CSV, JSONL or Parquet file, local or s3://; one item a row."
    )
    items: list[dict[str, Any]] | None = Field(
        None, description="The items themselves: a list of mappings with fields of any name."
    )
    new_only: bool = Field(
        default=False,
        description="Skip items for which an earlier run made everything and stored it elsewhere, "
        "as in yesterday's folder.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if [self.files, self.table, self.items].count(None) != 2:  # noqa: PLR2004
            raise ValueError("should have exactly one of `files`, `table` and `items`")
        return self


class Matrix(Section):
    """Lists of values by name; `include` and `exclude` mend their combinations."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[
        Identifier, Annotated[list[Scalar], Field(min_length=1), AfterValidator(_distinct)]
    ]

    include: list[dict[Identifier, Scalar]] = Field(
        [],
        description="Further values: added to each combination that they fit without changing "
        "a value of the lists, else a combination of their own.",
    )
    exclude: list[dict[Identifier, Scalar]] = Field(
        [], description="Combinations to leave out; one that names fewer values fits several."
    )

    @property
    def lists(self) -> dict[str, list[Any]]:
        """The lists by name, in the order in which they are written."""
        return self.__pydantic_extra__ or {}


class Checks(Section):
    """What an output has to show before it counts; one that does not is rejected."""

    min_width: int = Field(0, ge=0, description="Minimum width in pixels.")
    min_height: int = Field(0, ge=0, description="Minimum height in pixels.")
    aspect_ratio: bool = Field(
        default=False, description="The aspect ratio that the input asks for, within 2 %."
    )
    not_blank: bool = Field(default=False, description="More than a single colour.")
    not_input: bool = Field(default=False, description="Differs from every input image.")
    not_duplicate: bool = Field(
        default=False, description="Differs clearly from the other output images of the run."
    )
    on_failure: Literal["reject"] = Field(
        "reject", description="reject: moved to `rejected/`, and reported as failed."
    )
    again: int = Field(
        0, ge=0, le=5, description="How many more attempts a rejected output may cost."
    )

    @property
    def value(self) -> ContentChecks:
        """The checks as they travel with a job."""
        return ContentChecks(**self.model_dump(exclude={"on_failure"}))


class StepOutput(Section):
    """Where this step's outputs are stored, in the place of what the pipeline says for all."""

    to: Filled | None = Field(None, description=_FOLDER)
    name: Filled | None = Field(None, description="The file name's template.")


class Step(Section):
    """One call of a model for every item and matrix combination, or for all of them together."""

    model: Filled = Field(
        description="The model's id, such as google/nano-banana/pro/edit.",
        examples=["google/nano-banana/pro/edit"],
    )
    input: dict[str, Any] = Field(
        description="The model's input. Texts may be templates; a media field takes a path, "
        "s3://…, https://… or another step's output: {{ steps.edit.images[0] }}."
    )
    variant: Any = Field(
        None, description="Any value; another value makes another job of the same input."
    )
    when: str | bool = Field(
        default=True,
        description="Only where this is true: {{ item.hero }}.",
        examples=["{{ item.hero }}"],
    )
    for_each: str | list[Any] | None = Field(
        None,
        description="One job for each entry of a list; `each` is the entry, `each_index` its "
        "number from 0.",
        examples=["{{ steps.edit.images }}"],
    )
    collect: bool | Literal["items"] = Field(
        default=False,
        description="true: one job for all items and matrix combinations together, whose "
        "`steps.NAME` holds the outputs of all; items: one for each matrix combination.",
    )
    convert: Literal["jpeg", "png", "webp"] | None = Field(
        None,
        description="Pictures in a format that models do not take are submitted as a copy in "
        "this one, turned upright.",
    )
    downscale: bool = Field(
        default=False,
        description="Pictures that are too large are submitted as a smaller copy.",
    )
    checks: Checks | None = Field(None, description="Checks that an output must pass.")
    output: StepOutput = Field(
        StepOutput(), description="Where this step's outputs are stored, if elsewhere."
    )

    @model_validator(mode="after")
    def _one_way_to_spread(self) -> "Step":
        if self.collect and self.for_each is not None:
            raise ValueError("should have `collect` or `for_each`, not both")
        return self

    @property
    def preparation(self) -> Preparation:
        """What may be done to copies of its media."""
        return Preparation(self.convert, self.downscale)


class Output(Section):
    """Where outputs are stored, and under which name."""

    to: Filled = Field(description=_FOLDER)
    name: Filled | None = Field(
        None,
        description="The file name's template; by default item, matrix values, step, index.",
    )
    on_conflict: OnConflict = Field(
        "version",
        description="A file under an output's name that comfyline did not write: keep it (and "
        "fail), replace it, or store the output as another version (name-2.png).",
    )
    accept: list[Literal["svg"]] = Field(
        [],
        description="What may be stored besides images, videos and audio: `svg`, a drawing "
        "that may run scripts in whatever shows it.",
    )
    contact_sheet: PictureName | None = Field(
        None,
        description="The file name of a picture that shows all outputs of a run side by side.",
        examples=["contact-sheet.jpg"],
    )


class RunLimits(Section):
    """What a run of this pipeline may take up."""

    in_flight: int = Field(16, ge=1, description="How many requests may be at RunComfy at a time.")
    timeout: Seconds = Field(
        1800.0, description="For one job, from submit to completed: 90s, 30m, 1h30m."
    )
    max_cost_usd: Dollars | None = Field(
        None, description="The most a run may cost, in US dollars."
    )
    max_cost_usd_per_day: Dollars | None = Field(
        None,
        description="What all runs of this pipeline may cost on one day (UTC), in US dollars.",
    )
    cost_ceilings: dict[Filled, Dollars] = Field(
        {}, description="By model id: what to set aside for a job whose price is unknown."
    )
    shard: int | None = Field(
        None,
        ge=1,
        description="Share a run with more jobs than this among the workers of the deployment "
        "`pipeline`, in shards of about so many jobs.",
    )
    share: Annotated[str, AfterValidator(_share)] | None = Field(
        None,
        description="The label among whose values slots are divided, so that one client's jobs do "
        "not make another's wait: label.client.",
        examples=["label.client"],
        json_schema_extra={"pattern": rf"^label\.{LABEL_NAME.pattern}$"},
    )

    @property
    def shared_label(self) -> str | None:
        """The name of the label among whose values slots are divided."""
        return self.share and self.share.removeprefix(_SHARE)


class PipelineDocument(Section):
    """A whole pipeline file."""

    name: Slug = Field(description="What the pipeline is called in the ledger.")
    source: Source = Field(description="What the pipeline works on.")
    matrix: Matrix = Field(
        Matrix(), description="Lists of values, each combination crossed with every item."
    )
    env: list[Identifier] = Field(
        [], description="Environment variables that templates may use: {{ env.SEASON }}."
    )
    labels: dict[LabelName, Filled] = Field(
        {},
        description="Whose the jobs are, for `report` and metrics: name and value, a template. "
        "They are no part of what is asked for.",
        examples=[{"client": "{{ item.client }}"}],
    )
    steps: dict[Identifier, Step] = Field(
        min_length=1, description="The model calls by name; one may use what others made."
    )
    output: Output = Field(description="Where outputs are stored.")
    limits: RunLimits = Field(RunLimits(), description="What a run may use.")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose document is right; `yaml` knows where each value was written.

    `items` are its items, where they have been read already.
    """

    document: PipelineDocument
    yaml: LocatedYaml
    items: Sequence[Item] | None = None

    @property
    def name(self) -> str:
        """What the pipeline calls itself."""
        return self.document.name


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file.

    Raises `InputInvalid` with every mistake that needs no item to be seen, and `UsageError` for an
    override that cannot be applied.
    """
    return read_pipeline(apply_overrides(load_yaml(path), overrides))


def read_pipeline(located: LocatedYaml) -> Pipeline:
    """Validate a pipeline of which the YAML has been read. Raises as `load_pipeline` does."""
    problems = find_reference_mistakes(located)
    try:
        document = validate_document(located, PipelineDocument)
    except InputInvalid as error:
        raise InputInvalid([*error.problems, *problems]) from None
    if problems:
        raise InputInvalid(problems)
    return Pipeline(document, located)
