"""Where each output of a job goes: the rendered folder and a name that is its own."""

from collections import Counter
from collections.abc import Sequence

from comfyline.job import FetchedFile, Placement, StoredOutput
from comfyline.media import extension
from comfyline.pipeline.naming import output_name
from comfyline.storage.place import join


def target_uris(
    placement: Placement, outputs: Sequence[FetchedFile | StoredOutput]
) -> tuple[str, ...]:
    """The URI of each output, in order.

    A model may make more outputs than the plan could know of. Where the name template gives two
    of them one name, the index is added: what was paid for is not overwritten by its sibling.
    """
    named = [
        (output.index, extension(output.media_type), output_name(placement, output.index, ext))
        for output in outputs
        for ext in [extension(output.media_type)]
    ]
    taken = Counter(name.casefold() for _, _, name in named)
    return tuple(
        join(
            placement.folder,
            name
            if taken[name.casefold()] == 1
            else f"{name.removesuffix(f'.{ext}')}-{index}.{ext}",
        )
        for index, ext, name in named
    )
