import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.utilities.callables import parameter_schema

from comfyline.errors import InputInvalid
from comfyline.pipeline.document import load_pipeline
from comfyline.redact import without_secrets
from comfyline.services import day_of, now
from flows.generate import generate
from flows.parameters import as_given, handed_over, kept_out_of_prefect, read_pipeline
from flows.pipeline import pipeline
from flows.reconcile import reconcile
from flows.report import report
from flows.session import run_date

SIGNED = "https://bucket.example/cat.png?X-Amz-Credential=me&X-Amz-Signature=5ec2e7"
LEFT_OUT = "https://bucket.example/cat.png [the rest is kept out of Prefect]"


def test_prefect_gets_addresses_without_their_secrets_and_the_flow_gets_them_whole() -> None:
    inputs = {"image_urls": [SIGNED, "a.png"], "prompt": "a cat?", "seed": 3, "plain": None}
    overrides = [f"steps.edit.input.image_urls=[{SIGNED}]"]
    output = "https://me:pa55word@host/folder"

    with kept_out_of_prefect(inputs=inputs, overrides=overrides, output=output) as stored:
        given = {name: as_given(name, value) for name, value in stored.items()}

    assert given == {"inputs": inputs, "overrides": overrides, "output": output}
    assert stored["inputs"] == inputs | {"image_urls": [LEFT_OUT, "a.png"]}
    assert all(secret not in str(stored) for secret in ("5ec2e7", "Amz", "pa55word"))


@pytest.mark.parametrize("stored", [{"image_urls": [LEFT_OUT]}, [f"a.b={LEFT_OUT}"], LEFT_OUT])
def test_a_run_that_is_started_again_from_the_page_says_what_is_gone(stored: object) -> None:
    with pytest.raises(InputInvalid, match="stored in Prefect; give the complete address"):
        as_given("inputs", stored)


def test_a_pipeline_that_this_process_has_read_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\nsource: {items: []}\nsteps: {a: {model: m, input: {}}}\noutput: {to: o}\n"
    )
    loaded = load_pipeline(path)

    with handed_over(loaded):
        assert read_pipeline(str(path), []) is loaded
    assert read_pipeline(str(path), ["name=q"]).name == "q"


def test_what_is_typed_into_the_page_is_taken_as_it_is() -> None:
    assert as_given("inputs", {"image_urls": [SIGNED]}) == {"image_urls": [SIGNED]}


@pytest.mark.parametrize(
    "hostile", ["?", "?a=", "http://", "data:", "data:a/b", "://", "data:a/a;", "https://a/"]
)
def test_no_text_takes_long_to_be_freed_of_secrets(hostile: str) -> None:
    text = hostile * (200_000 // len(hostile))

    assert len(without_secrets(text)) <= len(text)


def test_the_command_line_loads_no_prefect_before_it_has_set_its_environment() -> None:
    program = "import sys; import comfyline.cli.run; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_flow_parameter_is_described() -> None:
    for flow in (generate, pipeline, reconcile, report):
        for name, parameter in parameter_schema(flow).properties.items():
            assert parameter["title"] != name
            assert parameter["description"], name


def test_the_form_refuses_a_folder_without_a_name() -> None:
    for flow, name in ((generate, "output"), (report, "to")):
        assert parameter_schema(flow).properties[name]["minLength"] == 1


def test_a_run_that_is_retried_on_another_day_keeps_its_day() -> None:
    began = now() - timedelta(days=2)
    run = FlowRun(flow_id=uuid4(), start_time=began)

    with FlowRunContext.model_construct(flow_run=run):
        assert run_date() == day_of(began)
    with FlowRunContext.model_construct(flow_run=FlowRun(flow_id=uuid4())):
        assert run_date() in {day_of(began) + timedelta(days=passed) for passed in (2, 3)}
