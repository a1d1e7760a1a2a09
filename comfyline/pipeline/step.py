"""A step of a pipeline: one call of a model, for which items and under which conditions."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from comfyline.job import ContentChecks, Preparation
from comfyline.pipeline.sections import Filled, Section


class Checks(Section):
    """What an output has to show before it counts; one that does not is rejected."""

    min_width: Annotated[int, Field(ge=0, description="At least so many pixels wide.")] = 0
    min_height: Annotated[int, Field(ge=0, description="At least so many pixels high.")] = 0
    aspect_ratio: Annotated[
        bool, Field(description="The aspect ratio that the input asks for, within 2 %.")
    ] = False
    not_blank: Annotated[bool, Field(description="More than one colour all over.")] = False
    not_input: Annotated[bool, Field(description="Not the same picture as an input.")] = False
    not_duplicate: Annotated[
        bool, Field(description="Not nearly the same picture as another output of the run.")
    ] = False
    on_failure: Annotated[
        Literal["reject"],
        Field(description="reject: stored aside in `rejected/`, and reported as failed."),
    ] = "reject"
    again: Annotated[
        int,
        Field(ge=0, le=5, description="How many more attempts a rejected output may cost."),
    ] = 0

    @property
    def value(self) -> ContentChecks:
        """The checks as they travel with a job."""
        return ContentChecks(**self.model_dump(exclude={"on_failure"}))


class StepOutput(Section):
    """Where this step's outputs are stored, in the place of what the pipeline says for all."""

    to: Annotated[
        Filled | None,
        Field(
            description="A folder, s3://bucket/prefix, or another address that fsspec has a driver "
            "for (gs://, az://); a template."
        ),
    ] = None
    name: Annotated[Filled | None, Field(description="The file name's template.")] = None


class Step(Section):
    """One call of a model for every item and matrix combination, or for all of them together."""

    model: Annotated[
        Filled,
        Field(
            description="The model's id, such as google/nano-banana/pro/edit.",
            examples=["google/nano-banana/pro/edit"],
        ),
    ]
    input: Annotated[
        dict[str, Any],
        Field(
            description="The model's input. Texts may be templates; a media field takes a path, "
            "s3://…, https://… or another step's output: {{ steps.edit.images[0] }}."
        ),
    ]
    variant: Annotated[
        Any, Field(description="Any value; another value makes another job of the same input.")
    ] = None
    when: Annotated[
        str | bool,
        Field(
            description="Only where this is true: {{ item.hero }}.", examples=["{{ item.hero }}"]
        ),
    ] = True
    for_each: Annotated[
        str | list[Any] | None,
        Field(
            description="One job for each entry of a list; `each` is the entry, `each_index` its "
            "number from 0.",
            examples=["{{ steps.edit.images }}"],
        ),
    ] = None
    collect: Annotated[
        bool | Literal["items"],
        Field(
            description="true: one job for all items and matrix combinations together, whose "
            "`steps.NAME` holds the outputs of all; items: one for each matrix combination."
        ),
    ] = False
    convert: Annotated[
        Literal["jpeg", "png", "webp"] | None,
        Field(
            description="Pictures in a format that models do not take are submitted as a copy in "
            "this one, turned upright."
        ),
    ] = None
    downscale: Annotated[
        bool, Field(description="Pictures that are too large are submitted as a smaller copy.")
    ] = False
    checks: Annotated[
        Checks | None, Field(description="What an output has to show before it counts.")
    ] = None
    output: Annotated[
        StepOutput, Field(description="Where this step's outputs are stored, if elsewhere.")
    ] = StepOutput()

    @model_validator(mode="after")
    def _one_way_to_spread(self) -> "Step":
        if self.collect and self.for_each is not None:
            raise ValueError("should have `collect` or `for_each`, not both")
        return self

    @property
    def preparation(self) -> Preparation:
        """What may be done to copies of its media."""
        return Preparation(self.convert, self.downscale)
