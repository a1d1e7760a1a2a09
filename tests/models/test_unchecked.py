from comfyline.models.check import fit_inputs
from comfyline.models.dialect import explicit_media
from comfyline.models.entry import UncheckedModel


def test_only_what_says_that_it_is_media_is_media() -> None:
    inputs = {
        "prompt": "write to me@example.org about s3://",
        "image": "@photo.jpg",
        "shots": [{"clip": "s3://b/a.mp4"}, "@s3://b/c.mp4", "plain.jpg"],
        "url": "https://h.net/a.jpg",
        "handle": "@",
        "seed": 7,
    }

    assert list(explicit_media(inputs)) == [
        (("image",), "photo.jpg"),
        (("shots", 0, "clip"), "s3://b/a.mp4"),
        (("shots", 1), "s3://b/c.mp4"),
    ]


def test_without_a_schema_what_was_typed_stays_as_it_was_typed() -> None:
    typed = {"seed": "7", "image_urls": "@photo.jpg", "prompt": "x"}

    assert fit_inputs(UncheckedModel(model_id="acme/none"), typed) == typed
