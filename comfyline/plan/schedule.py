"""Schedule a run's jobs: those of a step become known when what it needs has been made.

A job that fails takes with it what depends on it, and nothing else. Pure bookkeeping: nothing is
read, written or paid for here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from comfyline.errors import ComfylineError, InputInvalid, NotBegun, Skipped
from comfyline.job import Job, JobState
from comfyline.media.types import kind_of
from comfyline.pipeline.graph import Dag, NodeId
from comfyline.pipeline.render import Made
from comfyline.run import Outcome
from comfyline.storage.inputs import address_of

Position = tuple[int, int, int]
_ONLY: NodeId = ("", 0)


_ENDS = {
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
    JobState.IN_DOUBT: "is in doubt",
    JobState.EXPIRED: "is no longer kept by RunComfy",
}


@dataclass(frozen=True, slots=True)
class Ready:
    """What has become known: jobs that can be begun, and outcomes of those that never will be."""

    jobs: tuple[Job, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(slots=True)
class _Open:
    """A node whose jobs are known and not all at their end."""

    left: int
    made: dict[int, tuple[Made, ...]] = field(default_factory=dict)


class Schedule:
    """Which jobs can be begun, told step by step. Not thread-safe.

    `expected` are the jobs of each node as far as they can be told before.
    """

    def __init__(self, graph: Dag | None, expected: Mapping[NodeId, Sequence[Job]]) -> None:
        self._graph = graph
        self._expected = dict(expected)
        self._jobs = sum(map(len, expected.values()))
        self._waiting: dict[NodeId, int] = {}
        self._roots: list[NodeId] = []
        for node in graph.nodes() if graph else expected:
            if needs := len(graph.needs(node)) if graph else 0:
                self._waiting[node] = needs
            else:
                self._roots.append(node)
        self._open: dict[NodeId, _Open] = {}
        self._node_of: dict[int, tuple[NodeId, int, Job]] = {}
        self._made: dict[NodeId, Sequence[Made]] = {}

    @classmethod
    def of(cls, job: Job) -> "Schedule":
        """Schedule a single job that nothing depends on."""
        return cls(None, {_ONLY: (job,)})

    @property
    def jobs(self) -> int:
        """How many jobs the run has, as far as can be told now."""
        return self._jobs

    def expected(self) -> tuple[Job, ...]:
        """All jobs that are expected and not known yet."""
        return tuple(job for jobs in self._expected.values() for job in jobs)

    def begin(self) -> Ready:
        """Return the jobs that need no other; called once, before anything has ended."""
        roots, self._roots = self._roots, []
        return _together(self._known(node, tuple(self._expected.pop(node, ()))) for node in roots)

    def waiting(self) -> tuple[Job, ...]:
        """Return what is expected of the nodes whose inputs have not been made yet, in order."""
        nodes = sorted(self._waiting, key=self._position)
        return tuple(job for node in nodes for job in self._expected.get(node, ()))

    def give_up(self, wrong: Iterable[Job]) -> tuple[Job, ...]:
        """Take out what is waited for in vain, because the placeholder is wrong already.

        Returns the placeholders, which come to their end like any other job: at their check.
        """
        ids = {id(job) for job in wrong}
        given_up: list[Job] = []
        for node in list(self._waiting):
            jobs = self._expected.get(node, ())
            if jobs and ids.issuperset(id(job) for job in jobs):
                del self._waiting[node]
                given_up += self._known(node, tuple(self._expected.pop(node))).jobs
        return tuple(given_up)

    def position(self, job: Job) -> Position:
        """Return where a job stands in the order of the run: by item, step and part."""
        node, number, _ = self._node_of[id(job)]
        return (*self._position(node), number)

    def all_ended(self, outcomes: Iterable[Outcome]) -> Ready:
        """Take in what became of many jobs."""
        return _together([self.ended(outcome) for outcome in outcomes])

    def ended(self, outcome: Outcome) -> Ready:
        """Take in what became of a job; return what can be begun now, and what never can."""
        node, number, _ = self._node_of[id(outcome.job)]
        if not self._is_needed(node):
            return Ready()
        if outcome.state is not JobState.PERSISTED:
            return self._skip_after(node, outcome)
        current = self._open.get(node)
        if current is None:
            return Ready()  # Another job of the node has failed before.
        current.left -= 1
        current.made[number] = _made(outcome)
        return self._close(node) if current.left == 0 else Ready()

    def _is_needed(self, node: NodeId) -> bool:
        return self._graph is not None and node[0] in self._graph.handing_on

    def _dependents(self, node: NodeId) -> tuple[NodeId, ...]:
        return self._graph.dependents(node) if self._graph else ()

    def _position(self, node: NodeId) -> tuple[int, int]:
        return self._graph.position(node) if self._graph else (0, 0)

    def _known(self, node: NodeId, jobs: tuple[Job, ...]) -> Ready:
        """Open a node whose jobs are known now; one without jobs has made its nothing already."""
        for number, job in enumerate(jobs):
            self._node_of[id(job)] = (node, number, job)
        if not self._is_needed(node):
            return Ready(jobs)
        self._open[node] = _Open(len(jobs))
        return Ready(jobs) if jobs else self._close(node)

    def _close(self, node: NodeId) -> Ready:
        done = self._open.pop(node)
        self._made[node] = [one for number in sorted(done.made) for one in done.made[number]]
        return _together(self._one_need_less(other) for other in self._dependents(node))

    def _one_need_less(self, node: NodeId) -> Ready:
        if self._graph is None or node not in self._waiting:
            return Ready()  # It was skipped because of another need.
        self._waiting[node] -= 1
        if self._waiting[node]:
            return Ready()
        del self._waiting[node]
        expected = self._expected.pop(node, ())
        rendered = self._graph.jobs(node, self._made)
        if not rendered.problems:
            self._jobs += len(rendered.jobs) - len(expected)
            return self._known(node, rendered.jobs)
        failed = expected or [self._graph.blank(node)]
        self._jobs += len(failed) - len(expected)
        return self._fail(node, failed, InputInvalid(rendered.problems))

    def _skip_after(self, node: NodeId, outcome: Outcome) -> Ready:
        self._open.pop(node, None)
        return self._skip_dependents(
            node, _left_out(outcome.job.label, outcome.state, outcome.error)
        )

    def _skip_dependents(self, node: NodeId, error: ComfylineError) -> Ready:
        return _together(
            self._fail(other, self._expected.pop(other, ()), error)
            for other in self._dependents(node)
            if self._waiting.pop(other, None) is not None
        )

    def _fail(self, node: NodeId, jobs: Sequence[Job], error: ComfylineError) -> Ready:
        for number, job in enumerate(jobs):
            self._node_of[id(job)] = (node, number, job)
        is_left = isinstance(error, Skipped | NotBegun)
        state = JobState.PLANNED if is_left else JobState.FAILED
        outcomes = tuple(Outcome(job, "", state, error=error) for job in jobs)
        after = _left_out(jobs[0].label, state, error) if jobs else error
        return _together([Ready((), outcomes), self._skip_dependents(node, after)])


def _left_out(label: str, state: JobState, error: ComfylineError | None) -> Skipped | NotBegun:
    """Say why a job is not begun that needs another one, which ended so."""
    if isinstance(error, Skipped):
        return Skipped(f"It needs `{label}`, which was skipped")
    if state in _ENDS:
        return Skipped(f"It needs `{label}`, which {_ENDS[state]}")
    return NotBegun(f"It needs `{label}`, which is not finished", hint="Run again to make it.")


def _made(outcome: Outcome) -> tuple[Made, ...]:
    return tuple(
        Made(address_of(output.uri), kind_of(output.media_type), outcome.is_old)
        for output in outcome.outputs
    )


def _together(parts: Iterable[Ready]) -> Ready:
    some = list(parts)
    return Ready(
        tuple(job for part in some for job in part.jobs),
        tuple(outcome for part in some for outcome in part.outcomes),
    )
