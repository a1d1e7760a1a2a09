import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.report.costs import NOTHING, Charge, total

DOLLARS = st.none() | st.floats(0, 1000)


@pytest.mark.parametrize(
    ("charges", "said"),
    [
        ([], ""),
        ([Charge(0.14, 0.14)], "$0.14"),
        ([Charge(0.0, 0.0)], "$0.00"),
        ([Charge(0.14, 0.12)], "$0.14, estimated $0.12"),
        ([Charge(0.14, None)], "$0.14, estimate unknown"),
        ([Charge(None, 0.14)], "unknown, estimated $0.14"),
        ([Charge(None, None)], "unknown, estimate unknown"),
        ([Charge(0.14, 0.14), Charge(None, 0.14)], "$0.14, unknown for 1 of 2, estimated $0.28"),
    ],
)
def test_a_cost_is_said_beside_its_estimate_where_the_two_differ(
    charges: list[Charge], said: str
) -> None:
    assert total(charges).words == said


@given(st.lists(st.builds(Charge, DOLLARS, DOLLARS)))
def test_what_is_unknown_is_counted_and_not_added(charges: list[Charge]) -> None:
    costs = total(charges)

    assert costs.unknown == sum(charge.cost_usd is None for charge in charges)
    assert costs.cost_usd == pytest.approx(sum(charge.cost_usd or 0 for charge in charges))
    assert (costs.estimate_usd is None) == any(c.estimate_usd is None for c in charges)
    if costs.unknown and costs.unknown == costs.requests:
        assert costs.words.startswith("unknown")


def test_nothing_asked_for_costs_nothing() -> None:
    assert total([]) == NOTHING
