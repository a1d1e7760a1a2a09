"""Combinations of matrix values, by the rule that GitHub Actions has made known."""

from typing import Any

import pytest
from pydantic import ValidationError

from comfyline.pipeline.document import Matrix
from comfyline.pipeline.graph import Combination, combinations


def of(**written: Any) -> list[Combination]:
    return combinations(Matrix.model_validate(written))


def test_the_last_list_changes_fastest() -> None:
    assert of(a=[1, 2], b=["x", "y"]) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_no_matrix_is_one_empty_combination() -> None:
    assert of() == [{}]


def test_includes_extend_what_they_fit_and_stand_alone_otherwise() -> None:
    made = of(
        fruit=["apple", "pear"],
        animal=["cat", "dog"],
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )

    assert made == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_includes_alone_are_the_combinations() -> None:
    assert of(include=[{"a": 1}, {"a": 1, "b": 2}]) == [{"a": 1}, {"a": 1, "b": 2}]


def test_an_exclude_that_names_fewer_values_takes_all_that_fit() -> None:
    made = of(a=[1, 2], b=["x", "y"], exclude=[{"a": 1}, {"a": 2, "b": "y"}])

    assert made == [{"a": 2, "b": "x"}]


def test_what_is_excluded_comes_back_only_as_an_include() -> None:
    assert of(a=[1], exclude=[{"a": 1}]) == []
    assert of(a=[1], exclude=[{"a": 1}], include=[{"a": 1, "b": 2}]) == [{"a": 1, "b": 2}]


def test_values_are_told_apart_by_their_type_as_well() -> None:
    assert of(a=[1, True, "1"], exclude=[{"a": True}]) == [{"a": 1}, {"a": "1"}]


@pytest.mark.parametrize(
    "written",
    [
        {"a": []},
        {"a": [1, 1]},
        {"a": [[1]]},
        {"a": [None]},
        {"include": {"a": 1}},
        {"include": [{"a": [1]}]},
    ],
)
def test_what_makes_no_combinations_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        of(**written)
