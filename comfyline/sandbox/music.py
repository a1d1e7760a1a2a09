"""A pleasant little tune out of words: plucked notes of a pentatonic scale over a slow bass.

Each pitch is computed once and four bars are made of them, however long the tune is, so that four
minutes cost hardly more than ten seconds.
"""

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

RATE = 32_000
"""Samples a second; all sound in the sandbox is mono, of signed 16-bit samples."""

_MAJOR, _MINOR = (0, 2, 4, 7, 9), (0, 3, 5, 7, 10)
_SAD = re.compile(r"sad|dark|minor|melanchol|blues|night|horror|tense|悲|夜", re.IGNORECASE)
_SLOW = re.compile(r"slow|calm|ambient|lullaby|soft|relax|sad|drone|慢", re.IGNORECASE)
_FAST = re.compile(r"fast|dance|techno|energetic|upbeat|rock|drum|house|快", re.IGNORECASE)

_BEATS = 8
_BARS = 4
_FORM = (0, 1, 0, 2, 0, 1, 3, 2)
_PARTIALS = ((1.0, 1.0), (2.0, 0.4), (3.01, 0.16))
_LOUDNESS = 7_000
_FADE = 0.8


@dataclass(frozen=True, slots=True)
class Mood:
    """What the words say about a tune: its scale, the seconds of a beat, its lowest tone in Hz."""

    scale: tuple[int, ...]
    beat: float
    root: float


def tune(words: str, seed: bytes, seconds: float) -> Iterator[bytes]:
    """Samples of exactly so many seconds, a bar at a time; the same words give the same tune."""
    rng = Random(seed)  # noqa: S311 - a tune, not a secret
    mood = read_mood(words, rng)
    player = _Player(mood, rng)
    left = round(seconds * RATE)
    fade = min(left, round(_FADE * RATE))
    bars: dict[int, array[int]] = {}
    turn = 0
    while left > 0:
        which = _FORM[turn % len(_FORM)]
        if which not in bars:
            bars[which] = player.bar()
        samples = bars[which][:left]
        left -= len(samples)
        if left < fade:
            samples = _faded(samples, left, fade)
        yield samples.tobytes()
        turn += 1


def read_mood(words: str, rng: Random) -> Mood:
    """Reads the mood out of tags and prompts."""
    beat = 0.6 if _SLOW.search(words) else 0.28 if _FAST.search(words) else 0.42
    scale = _MINOR if _SAD.search(words) else _MAJOR
    return Mood(scale, beat, 110.0 * 2 ** (rng.randrange(12) / 12))


class _Player:
    """Plays bars of one mood; remembers how each pitch sounds."""

    def __init__(self, mood: Mood, rng: Random) -> None:
        self._mood, self._rng = mood, rng
        self._beat = round(mood.beat * RATE)
        self._notes: dict[tuple[int, int], array[float]] = {}

    def bar(self) -> "array[int]":
        """One bar: a melody that wanders over the scale, and two notes of a bass."""
        long = _BEATS * self._beat
        mixed = array("d", bytes(8 * long))
        step = self._rng.randrange(3, 8)
        for half in range(2):
            low = self._mood.scale[self._rng.choice((0, 0, 3))] - 12 * (half == 0)
            self._add(mixed, half * long // 2, low, _BEATS // 2)
        for beat in range(_BEATS):
            if beat and self._rng.random() < 0.2:  # noqa: PLR2004 - now and then a rest
                continue
            step = max(0, min(9, step + self._rng.choice((-2, -1, -1, 1, 1, 2))))
            octave, place = divmod(step, len(self._mood.scale))
            self._add(mixed, beat * self._beat, self._mood.scale[place] + 12 * (octave + 1), 2)
        return array("h", [max(-32_767, min(32_767, round(value))) for value in mixed])

    def _add(self, mixed: "array[float]", start: int, pitch: int, beats: int) -> None:
        note = self._note(pitch, beats)
        # What rings beyond the bar begins it, so that bars can follow one another in any order.
        room = min(len(note), len(mixed) - start)
        for to, part in ((start, note[:room]), (0, note[room:])):
            old = mixed[to : to + len(part)]
            mixed[to : to + len(part)] = array("d", [a + b for a, b in zip(old, part, strict=True)])

    def _note(self, pitch: int, beats: int) -> "array[float]":
        if (pitch, beats) not in self._notes:
            tone = self._mood.root * 2 ** (pitch / 12)
            self._notes[pitch, beats] = pluck(tone, beats * self._beat)
        return self._notes[pitch, beats]


def pluck(tone: float, samples: int) -> "array[float]":
    """A plucked string of so many Hz: partials that die away, the higher the sooner."""
    mixed = [0.0] * samples
    for multiple, loud in _PARTIALS:
        angle = 2 * math.pi * tone * multiple / RATE
        # A resonator rings by itself: two products a sample instead of a sine and a power.
        decay = 0.0008 ** (multiple**0.5 / samples)
        forward, back = 2 * decay * math.cos(angle), decay * decay
        before, now = 0.0, _LOUDNESS * loud * decay * math.sin(angle)
        ring = []
        for _ in range(samples):
            ring.append(before)
            before, now = now, forward * now - back * before
        mixed = [a + b for a, b in zip(mixed, ring, strict=True)]
    return array("d", mixed)


def _faded(samples: "array[int]", after: int, fade: int) -> "array[int]":
    """Lets the end of a tune die away; `after` samples come after these."""
    total = len(samples) + after
    return array(
        "h",
        [
            value if total - at >= fade else value * (total - at) // fade
            for at, value in enumerate(samples)
        ],
    )
