"""`comfyline report`: a table, CSV, JSON and a page, all of the same figures."""

import csv
import re
from pathlib import Path

import pytest

from comfyline.cli.console import results
from tests.cli.conftest import Office, ago, asked

HOSTILE = "<script>alert(1)</script>"
WIDE = "\uff1d1+1"
"""What some spreadsheets take for `=1+1`."""


@pytest.fixture
def filled(office: Office) -> Office:
    """Two clients' requests, one of them older than the period and one with a hostile name."""
    office.stored(asked("now", labels={"client": "acme"}), "r-1", at=ago(hours=2))
    office.stored(asked("dear", labels={"client": HOSTILE}), "r-2", cost=1.5, at=ago(hours=3))
    office.stored(asked("free of charge?"), "r-3", cost=None, at=ago(hours=4))
    office.doubted(asked("doubted", labels={"client": "=1+1"}), at=ago(hours=5))
    office.doubted(asked("wide", labels={"client": WIDE}), at=ago(hours=6))
    office.stored(asked("before", labels={"client": "acme"}), "r-4", cost=2.0, at=ago(days=9))
    return office


def test_the_json_names_every_group_and_the_time_before(filled: Office):
    report = filled.comfyline("report", "--by", "label.client", "--json").json

    told = [(one["group"], one["stored"], one["cost_usd"]) for one in report["groups"]]
    assert told == [
        (HOSTILE, 1, 1.5),
        ("acme", 1, 0.14),
        (None, 1, 0.0),
        ("=1+1", 0, 0.0),
        (WIDE, 0, 0.0),
    ]
    assert (report["total"]["stored"], report["before"]["stored"]) == (3, 1)
    assert (report["total"]["cost_unknown"], report["total"]["not_repeated"]) == (1, 2)
    assert report["failures"] == [{"kind": "in-doubt", "number": 2, "before": 0}]
    assert len(report["days"]) in {8, 9}
    assert sum(day["stored"] for day in report["days"]) == 3


def test_people_get_a_table_in_which_unknown_is_not_nought(filled: Office):
    ended = filled.comfyline("report", "--by", "label.client")

    assert re.search(r"\(not set\) +1 +1 unknown", ended.stdout)
    assert "3 jobs made for $1.64, 1 unknown" in ended.stderr


@pytest.mark.parametrize(("width", "last"), [(60, "cost"), (100, "worth"), (200, "generation")])
def test_a_figure_is_never_broken_over_two_lines(
    office: Office, monkeypatch: pytest.MonkeyPatch, width: int, last: str
):
    office.stored(asked("dear", labels={"client": "acme"}), "r-1", cost=23456.78, at=ago(hours=2))
    office.stored(asked("?", labels={"client": "acme"}), "r-2", cost=None, at=ago(hours=2))
    monkeypatch.setattr(results, "width", width)

    told = office.comfyline("report", "--by", "label.client").stdout

    assert "acme          2             $23,456.78, 1 unknown" in told
    [heading] = [line for line in told.splitlines() if line.startswith("label.client")]
    assert last in heading


def test_csv_has_a_line_for_each_group_that_no_spreadsheet_runs(filled: Office):
    ended = filled.comfyline("report", "--by", "label.client", "--csv")

    rows = list(csv.DictReader(ended.stdout.splitlines()))
    assert [row["label.client"] for row in rows] == [HOSTILE, "acme", "", "'=1+1", f"'{WIDE}"]
    assert [row["cost_usd"] for row in rows] == ["1.5", "0.14", "0.0", "0.0", "0.0"]


def test_the_page_is_whole_asks_for_nothing_and_shows_names_as_they_are(filled: Office):
    ended = filled.comfyline("report", "--by", "label.client", "--html", "out/report.html")

    page = Path("out/report.html").read_text()
    assert "Report: out/report.html" in ended.stderr
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"(src|href)=|url\(|<script", page)
    # One bar for what was paid on the day, as high as its part of the dearest day.
    heights = [float(found) for found in re.findall(r'<rect class="good".*height="([\d.]+)"', page)]
    assert max(heights) == 100


def test_a_ledger_in_which_nothing_is_has_a_report_too(office: Office):
    ended = office.comfyline("report", "--html", "report.html", "--json")

    assert ended.code == 0
    assert (ended.json["total"]["cost_usd"], ended.json["groups"]) == (0.0, [])
    assert "Nothing was asked for in this period." in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--by", "week"), "Reports are not by 'week'"),
        (("--by", "label.Client"), "Reports are not by 'label.Client'"),
        (("--since", "soon"), "Not a duration or a date: 'soon'"),
        (("--since", "2026-01-02", "--until", "2026-01-01"), "of no time at all"),
        (("--since", "0001-01-01"), "No report covers 0001-01-01 to "),
        (("--since", "1d", "--until", "9999-12-31"), "Ask for ten years at most"),
        (("--since", "0001-01-01T00:00+10:00"), "Not a duration or a date"),
        (("--csv", "--json"), "exclude each other"),
        (("--html", ""), "--html . names no file"),
        (("--html", "/proc/report.html"), "/proc/report.html cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said(office: Office, arguments: tuple[str, ...], told: str):
    ended = office.comfyline("report", *arguments)

    assert ended.code == 64
    assert told in ended.stderr
