"""What the services make of their settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.services import submit_limiter


@given(st.floats(0.01, 1000))
def test_the_limiter_lets_through_what_the_profile_says_also_below_one_a_second(rate: float):
    limiter = submit_limiter(rate)

    assert limiter.max_rate / limiter.time_period == pytest.approx(rate)
    assert limiter.max_rate >= 1
