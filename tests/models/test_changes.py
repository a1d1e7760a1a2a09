from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comfyline.models.describe import entry_changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_every_difference_is_said_at_its_place() -> None:
    before = {"price": 1, "schema": {"old": {}, "size": {"enum": ["1K"]}}, "same": [1]}
    after = {"schema": {"size": {"enum": ["1K", "2K"]}, "seed": {"type": "integer"}}, "same": [1]}

    assert entry_changes(before, after) == [
        "price is gone",
        "schema.old is gone",
        'schema.size.enum: ["1K"] → ["1K", "2K"]',
        'schema.seed is new: {"type": "integer"}',
    ]


def test_a_long_value_is_cut() -> None:
    [said] = entry_changes({}, {"about": "long " * 100})

    assert len(said) < 110
    assert said.endswith("…")


def test_true_is_not_1() -> None:
    assert entry_changes({"a": True}, {"a": 1}) == ["a: true → 1"]


@given(JSON, JSON)
def test_nothing_is_said_exactly_when_nothing_differs(before: Any, after: Any) -> None:
    same = entry_changes(before, after) == []

    assert entry_changes(before, before) == []
    if same:
        assert before == after
    elif isinstance(before, dict) and isinstance(after, dict):
        assert repr(before) != repr(after)
