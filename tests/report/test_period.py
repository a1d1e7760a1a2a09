"""The report of a period in words, and as Prefect's page shows it."""

from datetime import UTC, datetime, timedelta

import pytest

from comfyline.report.period import (
    Figures,
    PeriodReport,
    comparison,
    csv_text,
    group_rows,
    markdown,
)
from comfyline.report.period_page import period_page

UNTIL = datetime(2026, 11, 8, tzinfo=UTC)


def report(
    total: Figures, before: Figures, *groups: Figures, by: str = "label.client"
) -> PeriodReport:
    return PeriodReport(
        profile="sandbox",
        since=UNTIL - timedelta(days=1),
        until=UNTIL,
        by=by,
        total=total,
        before=before,
        groups=groups,
        days=(total.model_copy(update={"group": "2026-11-07"}),),
        failures=(),
    )


@pytest.mark.parametrize(
    "name",
    [
        "![x](https://evil.example/x.png)",
        "[x](https://evil.example)",
        "a | b",
        "<b>",
        "`x",
        "**x**",
    ],
)
def test_a_name_is_only_a_name_on_the_page_of_prefect(name: str) -> None:
    told = markdown(report(Figures(group="all"), Figures(group="all"), Figures(group=name)))

    line = told.splitlines()[-1]
    plain = "".join(f"\\{sign}" if sign in r"\`*_[]<>!#|~&" else sign for sign in name)
    assert line.startswith(f"| {plain} | 0 |")


def test_what_was_not_paid_again_is_told_as_a_number_of_jobs_and_their_worth() -> None:
    now = Figures(group="all", reused=6, taken_over=1, saved_usd=0.98)
    told = {name: values for name, *values in comparison(report(now, Figures(group="all")))}

    assert told["there already"] == ["6", "0"]
    assert told["taken over"] == ["1", "0"]
    assert told["worth of these"] == ["$0.98", ""]


@pytest.mark.parametrize(
    ("stored", "change"), [(0, "−100 %"), (50, "−50 %"), (100, "as before"), (150, "+50 %")]
)
def test_a_figure_is_compared_with_that_of_the_time_before(stored: int, change: str) -> None:
    page = period_page(
        report(Figures(group="all", stored=stored), Figures(group="all", stored=100))
    )

    assert f'<dd>{stored}</dd><dd class="note">{change}</dd>' in page


@pytest.mark.parametrize(
    ("by", "first", "more", "hint"),
    [
        ("label.client", "n-01", "and 10 more", "the dearest 30 of 40"),
        ("day", "n-11", "and 10 days before", "the last 30 of 40"),
    ],
)
def test_of_many_groups_people_see_those_that_matter_most(
    by: str, first: str, more: str, hint: str
) -> None:
    none = Figures(group="all")
    groups = [Figures(group=f"n-{number:02}", stored=1) for number in range(1, 41)]
    many = report(none, none, *groups, by=by)

    rows = [name for name, *_ in group_rows(many)]
    assert (rows[0], rows[-1], len(rows)) == (first, more, 31)
    assert hint in period_page(many)
    assert len(csv_text(many).splitlines()) == 41


def test_a_length_of_time_stays_on_one_line_of_the_page() -> None:
    waited = Figures(group="all", generation_p50=9.5, generation_p95=100)

    assert "9.5\u00a0s · 1\u00a0min\u00a040\u00a0s" in period_page(report(waited, waited))
