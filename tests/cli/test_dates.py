from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.cli.options import days_of
from comfyline.errors import UsageError


@given(st.dates(max_value=date(9998, 12, 31)), st.integers(0, 365))
def test_a_range_is_each_of_its_days_in_order(first: date, more: int) -> None:
    last = first + timedelta(days=more)

    days = days_of(f"{first}..{last}")

    assert (days[0], days[-1], len(days)) == (first, last, more + 1)
    assert list(days) == sorted(set(days))
    assert days_of(str(first)) == (first,)
    assert days_of(None) == ()


@given(st.dates(), st.dates())
def test_a_range_that_is_refused_says_why(first: date, last: date) -> None:
    if 0 <= (last - first).days < 366:
        return
    with pytest.raises(UsageError, match=r"ends before|at once") as refused:
        days_of(f"{first}..{last}")

    assert f"{first}..{last}" in refused.value.message
    if last < first:
        assert f"{last}..{first}" in refused.value.hint


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2026-02-30", "'2026-02-30' is not a day that there is"),
        ("2026-11-01..2026-02-30", "'2026-02-30' is not a day that there is"),
        ("tomorrow", "'tomorrow' is not a day"),
        ("20261101", "'20261101' is not a day"),
        ("", "'' is not a day"),
        ("2026-11-01..", "'' is not a day"),
        ("2026-11-01..2026-11-02..2026-11-03", "more than a first and a last day"),
        ("2026-11-01...2026-11-02", "'.2026-11-02' is not a day"),
    ],
)
def test_what_is_no_day_is_told_with_what_to_write(written: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        days_of(written)

    assert said in refused.value.message
    assert "2026-11-01..2026-11-07" in refused.value.hint or "days" in refused.value.hint
