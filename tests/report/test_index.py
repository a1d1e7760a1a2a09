"""The run index: one flat line an output, read by others in one line."""

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.json

from comfyline.job import Job, JobState, Placement, StoredOutput
from comfyline.report.index import index_lines, write_index
from comfyline.run import Outcome, Provenance

STORED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def asked(item: str = "cat", fields: dict[str, Any] | None = None, **settings: Any) -> Job:
    scope = {"item": fields or {}, "item_name": item}
    placement, inputs = Placement("out", "x", scope), {"prompt": f"a {item}"}
    return Job("office", item, "edit", "acme/painter", inputs, placement, settings=settings)


def outcome(job: Job, outputs: int = 1, **more: Any) -> Outcome:
    key = f"key-{job.item}"
    stored = tuple(
        StoredOutput(index, f"file:///out/{job.item}-{index}.png", "ab", 3, "image/png")
        for index in range(outputs)
    )
    return Outcome(job, key, JobState.PERSISTED, outputs=stored, **more)


def rows(one: Outcome, **made: Provenance) -> list[dict[str, Any]]:
    by_key = {f"key-{item}": how for item, how in made.items()}
    return [json.loads(line) for line in index_lines(one, "run-1", by_key)]


def test_a_line_says_what_made_an_output_and_where_it_lies() -> None:
    job = asked(fields={"prompt": "red", "size": 3, "day": date(2026, 1, 31)}, ratio="1:1")

    [row] = rows(outcome(job), cat=Provenance("req-1", 2, 0.14, STORED))

    assert row == {
        "job": "key-cat", "pipeline": "office", "run_id": "run-1", "item": "cat", "step": "edit",
        "index": 0, "model": "acme/painter", "prompt": "a cat", "uri": "file:///out/cat-0.png",
        "sha256": "ab", "bytes": 3, "media_type": "image/png", "width": None, "height": None,
        "duration": None, "cost_usd": 0.14, "request_id": "req-1", "attempt": 2,
        "created_at": "2026-01-31T12:00:00+00:00", "reused": False, "matrix_ratio": "1:1",
        "item_prompt": "red", "item_size": 3, "item_day": "2026-01-31",
    }  # fmt: skip


def test_the_cost_of_a_job_is_divided_among_its_outputs_and_what_nobody_knows_is_null() -> None:
    paid = rows(outcome(asked(), 4), cat=Provenance("r", 1, 0.5, STORED))
    [unknown] = rows(outcome(asked(), reused=True), cat=Provenance("r", 1, None, None))

    assert [row["cost_usd"] for row in paid] == [0.125] * 4
    assert (unknown["cost_usd"], unknown["created_at"], unknown["reused"]) == (None, None, True)
    assert rows(outcome(asked(), 0)) == []


def test_a_line_is_flat_and_holds_no_secret_and_always_one_line() -> None:
    signed = "https://b.s3.amazonaws.com/a.jpg?X-Amz-Signature=secret"
    fields = {"url": signed, "tags": ["a"], "deep": {"a": 1}, "note": "two\nlines"}
    fields |= {"nan": math.nan, "name": "caf\udce9"}

    [line] = index_lines(outcome(asked(fields=fields)), "run-1", {})

    row = json.loads(line)
    assert line.count("\n") == 1
    assert "secret" not in line
    assert row["item_nan"] is None
    assert row["item_note"] == "two\nlines"
    assert not {"item_tags", "item_deep"} & row.keys()
    assert not [value for value in row.values() if isinstance(value, list | dict)]


def test_a_runs_index_is_read_in_one_line_and_in_the_plans_order(tmp_path: Path) -> None:
    outcomes = [outcome(asked(f"item-{number}"), number % 3) for number in range(10)]
    made = {"key-item-2": Provenance("req-2", 1, 0.25, STORED)}

    write_index(tmp_path / "runs/1/index.jsonl", outcomes, "run-1", made)
    write_index(tmp_path / "empty.jsonl", outcomes[:1], "run-1", made)

    table = pyarrow.json.read_json(tmp_path / "runs/1/index.jsonl")
    uris = [output.uri for one in outcomes for output in one.outputs]
    assert table["uri"].to_pylist() == uris
    by_item = {row["item"]: row for row in table.to_pylist()}
    assert (by_item["item-2"]["cost_usd"], by_item["item-2"]["request_id"]) == (0.125, "req-2")
    assert by_item["item-1"]["created_at"] is None
    assert [path.name for path in (tmp_path / "runs/1").iterdir()] == ["index.jsonl"]
    assert (tmp_path / "empty.jsonl").read_text() == ""


def test_how_large_an_output_is_comes_from_this_run_or_from_its_sidecar(tmp_path: Path) -> None:
    fresh, before, unknown = (outcome(asked(name)) for name in ("fresh", "before", "unknown"))
    [output] = fresh.outputs
    fresh = replace(fresh, outputs=(replace(output, width=640, height=480, duration=2.5),))
    lying = tmp_path / "a.png"
    told = {"sha256": "a" * 64, "bytes": 3, "width": 320, "height": 200}
    lying.with_name("a.png.json").write_text(json.dumps({"job": "k", "output": told}))
    before = replace(before, outputs=(replace(before.outputs[0], uri=lying.as_uri()),))

    write_index(tmp_path / "index.jsonl", [fresh, before, unknown], "run-1", {})

    lines = (tmp_path / "index.jsonl").read_text().splitlines()
    sizes = [[json.loads(line)[name] for name in ("width", "height", "duration")] for line in lines]
    assert sizes == [[640, 480, 2.5], [320, 200, None], [None, None, None]]
