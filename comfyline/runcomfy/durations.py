"""How long requests of one kind take, and when it pays to look at one again.

Looking more often than `sqrt(hazard / (2 × price))` a second costs more in calls than it saves in
lag, and looking less often the reverse (Keller, *Optimum checking schedules*, 1974; `price` is what
a call is worth in seconds of lag). The hazard comes from a kernel estimate in the log of time: one
fitted curve breaks where a model has a fast and a slow way, or a tail. Requests that still run
count as lasting at least as long as they have (Kaplan-Meier): so the first to end, the fastest, do
not speak for all, and a model that has become slower is noticed before any of them ends.
"""

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfyline.config.settings import Polling

_PRICE: dict[Polling, float] = {"eager": 0.005, "balanced": 0.02, "frugal": 0.05}
"""What a call is worth in lag, as a share of the usual duration."""
_LONGEST_PRICED = 30.0
"""Nobody wants to wait longer for a film of ten minutes than for one of half a minute."""

SHORTEST_WAIT = 0.25
_FIRST_LOOK = 1.0
UNKNOWN_WAIT = 2.0
_LONGEST_UNKNOWN = 15.0
_LONGEST_OVERDUE = 5.0
_SHARE_OF_AGE = 0.1
_SECONDS_A_PLACE = 0.4
_SPREAD = 0.8

_STEP = 0.04
"""Width of the grid, in the logarithm of seconds."""
_REACH = 5.0
"""Bandwidths beyond which a kernel is nothing."""
_SURPRISE = 0.02
"""At least so much is believed to follow no known duration."""


_TELLING = re.compile(r"resolution|duration|quality|size|frames|fps|steps|^num_|^n$")
"""Inputs that say how much work a request is, by their names in RunComfy's catalogue."""


def kind_of(model_id: str, inputs: Mapping[str, Any]) -> str:
    """Name the kind of a request: those of one kind take about as long as one another."""
    told = {
        name: value
        for name, value in sorted(inputs.items())
        if _TELLING.search(name) and isinstance(value, str | int | float)
    }
    return f"{model_id} {json.dumps(told)}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of one kind: on a grid of ages, how many looks are due by then.

    `usual` is the geometric mean in seconds, `price` what a call is worth in seconds of lag.
    """

    usual: float
    price: float
    ages: tuple[float, ...]
    looks: tuple[float, ...]

    def next_look(self, age: float) -> float:
        """Return the age at which to look again, after a look at `age` seconds."""
        return self._age(self._looks(age) + 1)

    def _looks(self, age: float) -> float:
        if age >= self.ages[-1]:
            far = math.sqrt(self.usual + age) - math.sqrt(self.usual + self.ages[-1])
            return self.looks[-1] + far * math.sqrt(2 / self.price)
        right = bisect_right(self.ages, age)
        if not right:
            return 0.0
        left = right - 1
        share = (age - self.ages[left]) / (self.ages[right] - self.ages[left])
        return self.looks[left] + share * (self.looks[right] - self.looks[left])

    def _age(self, looks: float) -> float:
        if looks >= self.looks[-1]:
            far = (looks - self.looks[-1]) / math.sqrt(2 / self.price)
            return (far + math.sqrt(self.usual + self.ages[-1])) ** 2 - self.usual
        right = bisect_left(self.looks, looks)
        left = right - 1
        share = (looks - self.looks[left]) / (self.looks[right] - self.looks[left])
        return self.ages[left] + share * (self.ages[right] - self.ages[left])


def estimate(ended: Sequence[float], running: Sequence[float], polling: Polling) -> Estimate | None:
    """Estimate from durations in seconds, and the ages of what still runs; None knows nothing."""
    if not ended:
        return None
    points, lasting = _kaplan_meier(ended, running)
    known = 1 - lasting
    center = sum(at * weight for at, weight in points) / known
    usual = math.exp(center)
    price = _PRICE[polling] * min(usual, _LONGEST_PRICED)
    width = _bandwidth(points, center, known)
    surprise = max(_SURPRISE, 1 / (len(ended) + 1))
    believed, open_end = 1 - surprise, surprise + (1 - surprise) * lasting
    start = points[0][0] - (_REACH - 1) * width
    steps = int((points[-1][0] + (_REACH - 1) * width - start) / _STEP) + 2
    ages = tuple(math.exp(start + step * _STEP) for step in range(steps))
    rates = []
    for age in ages:
        density, survival = _kernel(points, math.log(age), width)
        # What follows no known duration ends at a rate that falls with its age.
        longer = usual / (usual + age)
        density = believed * density / age + open_end * longer / (usual + age)
        rates.append(math.sqrt(density / (believed * survival + open_end * longer) / (2 * price)))
    looks = [0.0]
    for left in range(steps - 1):
        looks.append(
            looks[-1] + (rates[left] + rates[left + 1]) / 2 * (ages[left + 1] - ages[left])
        )
    return Estimate(usual, price, ages, tuple(looks))


def _kaplan_meier(
    ended: Sequence[float], running: Sequence[float]
) -> tuple[list[tuple[float, float]], float]:
    """Return the log of each duration with its probability, and the rest: what outlasts all."""
    seen = sorted(
        [(math.log(max(seconds, 1e-3)), True) for seconds in ended]
        + [(math.log(age), False) for age in running if age > 1e-3]  # noqa: PLR2004  # log of nought
    )
    surviving, points = 1.0, []
    for place, (at, is_end) in enumerate(seen):
        if is_end:
            weight = surviving / (len(seen) - place)
            points.append((at, weight))
            surviving -= weight
    return points, max(surviving, 0.0)


def _bandwidth(points: Sequence[tuple[float, float]], center: float, known: float) -> float:
    """Choose the kernel's width by Silverman's rule, narrower, since there may be two humps."""
    spread = math.sqrt(sum((at - center) ** 2 * weight for at, weight in points) / known)
    quartiles: list[float] = []
    passed = 0.0
    for at, weight in points:
        passed += weight
        while len(quartiles) < 2 and passed >= (0.25, 0.75)[len(quartiles)] * known:  # noqa: PLR2004
            quartiles.append(at)
    between = (quartiles[-1] - quartiles[0]) / 1.349
    count = known**2 / sum(weight**2 for _, weight in points)
    width = 0.5 * (min(spread, between) if between > 0 else spread) * float(count**-0.2)
    few = 4
    return max(width, 0.25 if len(points) < few else 0.06)


def _kernel(points: Sequence[tuple[float, float]], at: float, width: float) -> tuple[float, float]:
    """Return density, per unit of log time, and survival of the kernel estimate there."""
    density = survival = 0.0
    for center, weight in points:
        far = (at - center) / width
        if far < -_REACH:
            survival += weight
        elif far < _REACH:
            density += weight * math.exp(-far * far / 2)
            survival += weight * math.erfc(far / math.sqrt(2)) / 2
    return density / (width * math.sqrt(2 * math.pi)), survival


@dataclass(frozen=True, slots=True)
class Place:
    """A request's place in RunComfy's queue; `seconds` is how long one place lasts, if known."""

    ahead: int
    seconds: float | None = None


def next_wait(
    known: Estimate | None, age: float, waited: float, place: Place | None = None
) -> float:
    """Return the seconds until the next look at a request.

    `age` is how long it has run, in seconds, and `waited` since when it is known at all; for one in
    the queue `age` is 0. The wait is never over twice what was waited already, since estimates of a
    queue can be far off; only the first look waits for what is known.
    """
    if known is None:
        wait = (
            _FIRST_LOOK
            if waited < _FIRST_LOOK
            else min(waited, max(UNKNOWN_WAIT, min(waited * _SHARE_OF_AGE, _LONGEST_UNKNOWN)))
        )
        if place:
            wait = max(wait, place.ahead * (place.seconds or _SECONDS_A_PLACE))
    else:
        # One that has outlasted all that is known is not left alone for ever longer.
        wait = min(known.next_look(age) - age, max(known.usual, _LONGEST_OVERDUE))
        if place and place.seconds:
            # Too early is mended by another look, too late is not.
            wait += (place.ahead + 0.5 - _SPREAD * math.sqrt(place.ahead + 1)) * place.seconds
        elif place:
            wait += place.ahead * _SECONDS_A_PLACE
    if waited or place:
        wait = min(wait, 2 * waited)
    return max(wait, SHORTEST_WAIT)
