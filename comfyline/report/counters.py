"""What is known of a run while it goes on, counted from what it tells."""

from collections import Counter
from dataclasses import dataclass, field

from comfyline.job import JobState, Stage
from comfyline.progress import Event, JobEnded, RunPlanned, StageEntered, Submitted


@dataclass(slots=True)
class RunCounters:
    """Counts the events of one run.

    It holds one small record for each job that is under way and forgets it when the job ends, so
    that its size follows the number of jobs at a time and not of jobs in all. Not thread-safe.
    """

    pipeline: str = ""
    run_id: str = ""
    jobs: int | None = None
    reused: int = 0
    estimate_usd: float | None = None
    cost_usd: float = 0.0
    cost_unknown: int = 0
    submitted: int = 0
    ends: Counter[JobState] = field(default_factory=Counter)
    live: dict[str, tuple[str, Stage]] = field(default_factory=dict)

    def count(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, RunPlanned):
            self.pipeline, self.run_id = event.pipeline, event.run_id
            self.jobs, self.reused = event.jobs, event.reused
            self.estimate_usd = event.estimate_usd
        elif isinstance(event, StageEntered):
            # Taken out first, so that a stage lists its jobs in the order they came in.
            self.live.pop(event.job, None)
            self.live[event.job] = (event.label, event.stage)
        elif isinstance(event, Submitted):
            self.submitted += 1
        elif isinstance(event, JobEnded):
            self.live.pop(event.job, None)
            self.ends[event.state] += 1
            self.cost_usd += event.cost_usd or 0.0
            self.cost_unknown += event.cost_unknown

    @property
    def made(self) -> int:
        """Jobs that this run brought to an end, whichever."""
        return self.ends.total()

    @property
    def ended(self) -> int:
        """Jobs at their end, with those that were there already."""
        ended = self.made + self.reused
        return ended if self.jobs is None else min(ended, self.jobs)

    @property
    def failed(self) -> int:
        """Jobs that ended without their outputs."""
        return self.made - self.ends[JobState.PERSISTED]

    def at(self, stage: Stage) -> list[str]:
        """Return the labels of the jobs that are in this stage now."""
        return [label for label, where in self.live.values() if where is stage]

    def seconds_left(self, elapsed: float) -> float | None:
        """Tell how long the rest takes at the pace so far; None while there is no pace yet."""
        if self.jobs is None:
            return None
        rest = self.jobs - self.ended
        if rest == 0:
            return 0.0
        return rest * elapsed / self.made if self.made else None
