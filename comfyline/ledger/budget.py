"""Whether a job fits under its cost limits, by what is spent and set aside already. Pure."""

import math
from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Limits:
    """What a claim must fit into.

    `in_flight` counts requests over all processes. The dollars are those of one run, and of one
    pipeline on one UTC day. `ceiling_usd` is set aside for a job whose price nobody knows; without
    one, such a job fits under a limit only with `allow_unknown_cost`.
    """

    in_flight: int
    max_cost_usd: float | None = None
    max_cost_usd_per_day: float | None = None
    ceiling_usd: float | None = None
    allow_unknown_cost: bool = False


@dataclass(frozen=True, slots=True)
class NoMoney:
    """The job does not fit: `reserved_usd` of `limit_usd` are spent or set aside.

    `limit` names which limit: `run` or `day`; `price` when the job's own price is unknown.
    """

    limit: str
    limit_usd: float
    reserved_usd: float


def to_reserve(estimate_usd: float | None, limits: Limits) -> float | None:
    """What to set aside for a job; None when nobody can say and nobody has allowed for that."""
    known = estimate_usd is not None and math.isfinite(estimate_usd) and estimate_usd >= 0
    if known:
        return estimate_usd
    if limits.ceiling_usd is not None:
        return limits.ceiling_usd
    return 0.0 if limits.allow_unknown_cost else None


def refusal(
    amount: float | None, limits: Limits, run_reserved: float, day_reserved: float
) -> NoMoney | None:
    """Why a job may not be submitted, None when it fits."""
    caps = (
        ("run", limits.max_cost_usd, run_reserved),
        ("day", limits.max_cost_usd_per_day, day_reserved),
    )
    for name, cap, reserved in caps:
        if cap is None:
            continue
        if amount is None:
            return NoMoney("price", cap, reserved)
        # Said this way round, a limit that is no number refuses everything.
        if not reserved + amount <= cap + _ROUNDING:
            return NoMoney(name, cap, reserved)
    return None
