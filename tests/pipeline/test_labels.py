"""Labels: whose a job is. They follow the item, and make no other job of the same request."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import InputInvalid
from comfyline.job import CheckedJob
from comfyline.keys import job_key
from comfyline.ledger.attempts import pack, unpack
from comfyline.pipeline.document import load_pipeline
from comfyline.pipeline.labels import check_labels
from tests.pipeline.previews import preview

Write = Callable[..., Path]
STEPS = "  edit: {model: m, input: {p: x}}\n"


def pipeline(labels: str, steps: str = STEPS, items: str = "") -> str:
    rows = items or "{client: acme, sku: 7}, {client: bolt, sku: A 8}"
    return (
        f"name: p\nsource: {{items: [{rows}]}}\nmatrix: {{size: [s, l]}}\n"
        f"labels:\n{labels}steps:\n{steps}output: {{to: out}}\n"
    )


def mistakes(write: Write, labels: str) -> list[str]:
    try:
        return [str(problem) for problem in preview(write(pipeline(labels))).problems]
    except InputInvalid as error:
        return [str(problem) for problem in error.problems]


def test_every_job_has_its_items_labels_by_name(write: Write) -> None:
    labels = "  sku: '{{ item.sku }}'\n  client: '{{ item.client }}'\n  what: '{{ matrix.size }}'\n"
    jobs = preview(write(pipeline(labels))).all_jobs

    assert [list(job.labels.items()) for job in jobs[1:3]] == [
        [("client", "acme"), ("sku", "7"), ("what", "l")],
        [("client", "bolt"), ("sku", "A 8"), ("what", "s")],
    ]


def test_labels_make_no_other_job_and_are_kept_with_it(write: Write) -> None:
    one, _, other, _ = preview(write(pipeline("  client: '{{ item.client }}'\n"))).all_jobs
    keys = {job_key(job.model_id, job.inputs, (), job.variant) for job in (one, other)}
    checked = CheckedJob(one, keys.pop(), (), None)

    assert not keys
    assert unpack(pack(checked)).job.labels == {"client": "acme"}


def test_a_step_that_collects_has_the_labels_on_which_all_agree(write: Write) -> None:
    steps = STEPS + (
        "  all: {model: m, collect: true, input: {p: '{{ steps.edit.images }}'}}\n"
        "  each: {model: m, collect: items, input: {p: '{{ steps.edit.images }}'}}\n"
    )
    labels = "  client: '{{ item.client }}'\n  size: '{{ matrix.size }}'\n  team: web\n"
    jobs = preview(write(pipeline(labels, steps))).all_jobs

    assert {job.step: dict(job.labels) for job in jobs if job.step == "all"} == {
        "all": {"team": "web"}
    }
    assert [dict(job.labels) for job in jobs if job.step == "each"] == [
        {"size": "s", "team": "web"},
        {"size": "l", "team": "web"},
    ]


def test_a_label_without_a_value_is_none(write: Write) -> None:
    [job, *_] = preview(write(pipeline("  who: \"{{ item.who | default('') }}\"\n"))).all_jobs

    assert job.labels == {}


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("  Client: x\n", "p.yaml:5:3: `Client` should be a to z, digits and `_` only"),
        (
            "  client: 7\n",
            "p.yaml:5:3: `client` should be text, not a number (7); write it in quotes",
        ),
        ("  client: ''\n", "p.yaml:5:3: `client` should not be empty"),
        ("  client: '{{ steps.edit.image }}'\n", "p.yaml:5:3: unknown name `steps`"),
        ("  client: '{{ item.klient }}'\n", "there is no field `klient` (item 7 and 1 more item)"),
        (f"  client: {'x' * 101}\n", "a label has at most 100 characters, this one 101"),
        ('  client: "a\\nb"\n', "a label is one line, without control characters (item"),
        ('  client: "a\\u2028b"\n', "a label is one line, without control characters (item"),
        ('  client: "a\\u202eb"\n', "a label is one line, without control characters (item"),
    ],
)
def test_a_mistake_in_a_label_is_told_at_its_place(write: Write, labels: str, told: str) -> None:
    [said] = mistakes(write, labels)

    assert told in said
    assert said.startswith("p.yaml:5:3: ")


def test_every_mistake_of_ad_hoc_labels_is_told_at_once() -> None:
    with pytest.raises(InputInvalid) as error:
        check_labels({"Client": "x", "b": "y" * 200, "c": "right"})

    assert [problem.where for problem in error.value.problems] == ["labels.Client", "labels.b"]


@given(st.text(st.characters(codec=None), max_size=60))
def test_what_is_accepted_can_stand_in_a_line_and_a_database(text: str) -> None:
    try:
        labels = check_labels({"client": f"{text} https://x.y/z?X-Amz-Signature=SECRET"})
    except InputInvalid:
        return
    assert "SECRET" not in labels["client"]
    kept = labels["client"].encode("utf-8").decode()
    assert len(kept) <= 100
    assert not set(kept) & set(map(chr, range(32)))
    assert len(kept.splitlines()) == 1


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ("label.klient", "p.yaml:10:3: there is no label `klient`; did you mean `client`?"),
        ("label.", "p.yaml:10:3: `share` should name a label, such as label.client"),
        ("client", "p.yaml:10:3: `share` should name a label, such as label.client"),
    ],
)
def test_a_share_by_what_is_no_label_is_a_mistake_with_its_place(
    write: Write, share: str, said: str
) -> None:
    text = pipeline("  client: '{{ item.client }}'\n")
    with pytest.raises(InputInvalid) as error:
        load_pipeline(write(f"{text}limits:\n  share: {share}\n"))
    assert said in str(error.value)


def test_a_pipeline_without_labels_has_nothing_to_share_by(write: Write) -> None:
    text = "name: p\nsource: {items: [{a: b}]}\nsteps:\n" + STEPS + "output: {to: out}\n"
    with pytest.raises(InputInvalid, match="there is no label `client`; add it under `labels`"):
        load_pipeline(write(f"{text}limits: {{share: label.client}}\n"))
