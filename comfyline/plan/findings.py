"""What was found out about media and folders, once for however many jobs share them."""

from collections.abc import Mapping

from comfyline.job import Job, Placement, Pointer, Preparation
from comfyline.models.check import field_path
from comfyline.models.dialect import MediaField
from comfyline.models.entry import ModelEntry
from comfyline.plan.check_media import NOT_CHECKED, JudgedMedium, Remark, check_medium
from comfyline.storage.facts import Facts, Trouble
from comfyline.storage.place import folder_mistake

_NAMED = 3
"""How many of those that a note is about are named in it."""


class Findings:
    """Verdicts on media from their facts, and on output folders. Not thread-safe."""

    def __init__(self, facts: Mapping[str, Facts | Trouble]) -> None:
        self._facts = facts
        self._media: dict[tuple[str, Pointer, str, Preparation], JudgedMedium] = {}
        self._folders: dict[tuple[str, str], str] = {}
        self._patterns: dict[Remark, None] = {}

    def medium(self, job: Job, field: MediaField) -> JudgedMedium | None:
        """The verdict on a medium in one place of a model's inputs; None without its facts."""
        facts = self._facts.get(field.value)
        if facts is None:
            return None
        this = job.model_id, field.pointer, field.value, job.preparation
        if (known := self._media.get(this)) is None:
            known = check_medium(field_path(field.pointer), field, facts, job.preparation)
            self._media[this] = known
        return known

    def patterns(self, entry: ModelEntry) -> None:
        """Takes down which patterns of a model nobody holds its inputs against."""
        for pattern in entry.unchecked_patterns:
            subject = f"the pattern `{pattern}` of {entry.model_id}"
            self._patterns[Remark(subject, NOT_CHECKED)] = None

    def folder(self, placement: Placement) -> str:
        """What is wrong with the folder for a job's outputs; empty for nothing."""
        this = placement.folder, placement.root
        if (known := self._folders.get(this)) is None:
            known = self._folders[this] = folder_mistake(*this)
        return known

    def notes(self) -> list[str]:
        """What is no mistake and worth a line, each thing said once for all."""
        subjects: dict[str, dict[str, None]] = {}
        for remarks in (self._patterns, *(judged.remarks for judged in self._media.values())):
            for remark in remarks:
                subjects.setdefault(remark.text, {})[remark.subject] = None
        return [f"{_some(list(named))}: {text}" for text, named in subjects.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
