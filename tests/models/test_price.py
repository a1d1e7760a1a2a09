import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.models.entry import ModelEntry
from comfyline.models.price import estimate, expected_outputs
from tests.odd_json import JSON

FIELDS = {"num_images": {"default": 2}, "duration": {"default": 5}}


def entry(price: Any = 0.5, unit: str | None = "output", **fields: Any) -> ModelEntry:
    return ModelEntry.model_validate(
        {
            "model_id": "m",
            "base_price_usd": price,
            "price_unit": unit,
            "input_schema": {"properties": fields},
        }
    )


@pytest.mark.parametrize("price", [None, -1, float("nan"), float("inf"), "free", True, [], "1e999"])
def test_a_price_that_makes_no_sense_is_unknown(price: Any) -> None:
    assert entry(price).base_price_usd is None
    assert estimate(entry(price), {}) is None


@pytest.mark.parametrize(
    ("duration", "cost"),
    [
        (10, 5.0), (None, 2.5), ("8", 4.0), ("8s", 4.0), ("7.5 seconds", 3.75), (0.5, 0.25),
        (-1, None), (0, None), ("-1", None), ("auto", None), (True, None), ("8 m", None),
        (float("nan"), None), (10**400, None), ([5], None), ("9" * 400, None),
    ],
)  # fmt: skip
def test_a_price_by_second_takes_the_duration(duration: Any, cost: float | None) -> None:
    assert estimate(entry(unit="second", **FIELDS), {"duration": duration}) == cost


@pytest.mark.parametrize(
    ("asked", "cost"),
    [
        (None, 1.0), (4, 2.0), ("3", 1.5), (2.0, 1.0), ("auto", None), (0, None), (-1, None),
        (2.5, None), (True, None), ([], None), (10**400, None),
    ],
)  # fmt: skip
def test_a_price_by_output_counts_what_is_asked_for(asked: Any, cost: float | None) -> None:
    inputs = {"num_images": asked}

    assert estimate(entry(**FIELDS), inputs) == cost
    assert expected_outputs(entry(**FIELDS), inputs) == (int(cost / 0.5) if cost else 1)


def test_without_a_unit_or_a_duration_the_price_is_unknown() -> None:
    assert estimate(entry(unit=None), {}) is estimate(entry(unit="token"), {}) is None
    assert estimate(entry(unit="second"), {}) is None
    assert estimate(entry(price=0), {}) == 0


@given(
    price=JSON,
    unit=st.sampled_from(["output", "second", "token", None]),
    default=JSON,
    inputs=st.dictionaries(st.sampled_from(["duration", "num_images", "n"]), JSON),
)
def test_an_estimate_is_an_amount_of_money_or_unknown(
    price: Any, unit: str | None, default: Any, inputs: dict[str, Any]
) -> None:
    model = entry(price, unit, duration={"default": default}, n={"default": default})

    said = estimate(model, inputs)

    assert said is None or (math.isfinite(said) and said >= 0)
    assert expected_outputs(model, inputs) >= 1
