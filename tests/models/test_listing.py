from comfyline.models.entry import ModelEntry
from comfyline.models.library import listing


def model(model_id: str, price: float | None = None, *categories: str) -> ModelEntry:
    return ModelEntry(
        model_id=model_id,
        categories=categories,
        base_price_usd=price,
        price_unit="output" if price is not None else None,
    )


def test_each_model_stands_once_in_order_and_the_nearest_place_wins() -> None:
    listed = listing(
        [model("b", 9)],
        [model("b", 8), model("c", 8)],
        [model("d", 1), model("c", 2), model("b", 3), model("a", 4)],
    )

    assert [(one.entry.model_id, one.where) for one in listed] == [
        ("a", "catalogue"), ("b", "local"), ("c", "cached"), ("d", "catalogue"),
    ]  # fmt: skip
    assert [one.entry.base_price_usd for one in listed] == [4, 3, 2, 1]


def test_what_the_catalogue_does_not_price_today_has_no_price() -> None:
    [local, cached] = listing([model("a", 9)], [model("b", 9)], [])

    assert local.entry.base_price_usd is cached.entry.base_price_usd is None
    assert local.entry.price_unit is None


def test_a_search_goes_by_id_in_any_case_and_by_category() -> None:
    here = [model("acme/Paint", None, "text-to-image"), model("acme/film", None, "text-to-video")]

    assert [one.entry.model_id for one in listing(here, [], [], "paint")] == ["acme/Paint"]
    found = listing(here, here, [], None, "text-to-video")
    assert [one.entry.model_id for one in found] == ["acme/film"]
    assert listing(here, [], [], "paint", "text-to-video") == []
