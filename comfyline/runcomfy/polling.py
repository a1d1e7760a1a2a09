"""When to ask again: one pure function of what is known about a request.

A policy that learns from past durations replaces `next_poll` and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comfyline.job import JobState

_SHORTEST = 0.75
_LONGEST = 5.0
_SHARE_OF_AGE = 1 / 40
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

    Nothing is known of how long a model takes, and then no interval is better than a fixed one:
    calls × lag is half the duration for each of them. So 0.75 s for the first half minute, and
    later a fortieth of the age, up to 5 s: a video of minutes is not asked for hundreds of times.
    A request far back in the queue is asked less, by its place.
    """
    delay = seen.age * _SHARE_OF_AGE
    if seen.queue_position:
        delay = max(delay, seen.queue_position * _SECONDS_A_PLACE)
    return min(_LONGEST, max(_SHORTEST, delay))
