"""The form of Prefect's page in a real browser: refused where it is wrong, submitted, and run."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from comfyline.stack.stack import StackAddresses
from tests.story.conftest import PIPELINE
from tests.story.deployed import Prefect, deployed_at

pytestmark = pytest.mark.production

ALONE = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
"""What keeps Chromium to itself, and lets it run as root."""


@pytest.fixture(scope="module")
def prefect(
    tmp_path_factory: pytest.TempPathFactory, stack: StackAddresses, stack_home: Any, forks: Any
) -> Iterator[Prefect]:
    directory = tmp_path_factory.mktemp("deployed") / "project"
    with deployed_at(directory, stack, stack_home, forks) as prefect:
        yield prefect


@pytest.fixture
def form(prefect: Prefect, stack: StackAddresses) -> Iterator[Page]:
    """The form of the deployment `pipeline`, by the way that a person takes."""
    deployment = prefect.deployment("pipeline/pipeline")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ALONE)
        # So high that all of the form is in sight: a click while it scrolls goes elsewhere.
        page = browser.new_page(viewport={"width": 1280, "height": 2600})
        # Screens are slow where two processors have much else to do.
        page.set_default_timeout(30_000)
        page.goto(
            f"{stack.prefect_ui_url}/v2/login?redirectTo=/deployments/deployment/{deployment}"
        )
        page.locator("input[type=password]").fill(str(stack.prefect_auth_string))
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/deployments/deployment/{deployment}*")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Custom run").click()
        yield page
        browser.close()


def test_a_run_is_started_from_the_form_once_its_values_are_right(
    prefect: Prefect, form: Page
) -> None:
    prompt = "an office that was asked for in a form"
    overrides = (f"steps.edit.input.prompt={prompt}", "output.to=outputs/{{ run.date }}")
    submit = form.get_by_role("button", name="Submit")
    # The server is shared with others who deploy the same.
    before = {run["id"] for run in prefect.runs("pipeline")}

    def begun() -> list[dict[str, Any]]:
        return [run for run in prefect.runs("pipeline") if run["id"] not in before]

    submit.click()
    expect(form.get_by_text("'path' is a required property", exact=True)).to_be_visible()
    form.get_by_role("button", name="Select In configs/pipelines").click()
    form.get_by_role("option", name=PIPELINE).click()
    form.get_by_role("tab", name="A day").click()
    form.get_by_role("button", name="Pick a date").click()
    form.get_by_placeholder("yyyy-MM-dd").fill("2026-11-03")
    form.keyboard.press("Escape")
    form.get_by_role("tab", name="Some", exact=True).click()
    for text in overrides:
        form.get_by_role("button", name="Add item").click()
        form.locator("textarea").last.fill(text)
    form.get_by_role("tab", name="At most").first.click()
    items = form.locator("input[type=number]").first
    items.fill("0")
    submit.click()
    expect(items).to_have_js_property("validity.rangeUnderflow", value=True)
    assert begun() == []

    items.fill("1")
    submit.click()
    [run] = prefect.project.until(begun)

    assert prefect.ended(run["id"], "COMPLETED") == "2 jobs: 2 persisted"
    assert run["parameters"]["date"] == "2026-11-03"
    made = prefect.directory.glob("outputs/2026-11-03/*.png")
    assert len([*made]) == len(prefect.project.charges(prompt)) == 2
