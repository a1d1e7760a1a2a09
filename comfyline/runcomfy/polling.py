"""When to ask again: one pure function of what is known about a request.

A policy that learns from past durations replaces `next_poll` and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comfyline.job import JobState

_SHORTEST = 0.4
_LONGEST = 5.0
_SHARE_OF_AGE = 0.12
_SECONDS_A_PLACE = 0.4


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a request right after an answer; `age` is seconds since submission."""

    age: float
    state: JobState | None
    queue_position: int | None


PollPolicy = Callable[[Observation], float]


def next_poll(seen: Observation) -> float:
    """Seconds until the next status call.

    In proportion to the age, because the chance that a job ends in the next second falls with
    the time it has already taken; between 0.4 s, so that short jobs are not kept waiting, and
    5 s, so that long ones are not found late. A request far back in the queue is asked less.
    """
    delay = seen.age * _SHARE_OF_AGE
    if seen.queue_position:
        delay = max(delay, seen.queue_position * _SECONDS_A_PLACE)
    return min(_LONGEST, max(_SHORTEST, delay))
