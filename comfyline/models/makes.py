"""What a model makes, by the categories that the catalogue puts it in."""

from collections.abc import Mapping

from comfyline.job import MediaKind
from comfyline.models.entry import ModelEntry

_KINDS: Mapping[str, MediaKind] = {
    "image": "image",
    "video": "video",
    "audio": "audio",
    "music": "audio",
    "speech": "audio",
}


def kind_made(entry: ModelEntry) -> MediaKind | None:
    """The kind of a model's outputs; None where no category says it, or two contradict each other.

    A category is a text such as `image-to-video`.
    """
    parts = (category.lower().rpartition("-to-") for category in entry.categories)
    kinds = {_KINDS.get(made) for _, to, made in parts if to}
    return kinds.pop() if len(kinds) == 1 else None
