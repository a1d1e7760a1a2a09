"""What a run cost beside what it was expected to cost; what nobody knows is said to be unknown."""

from collections.abc import Iterable
from dataclasses import dataclass

from comfyline.report.format import usd


@dataclass(frozen=True, slots=True)
class Charge:
    """One request that may have been charged, in US dollars; None is unknown, and never free."""

    cost_usd: float | None
    estimate_usd: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Several charges: the sum of what is known, and for how many of them nothing is.

    `estimate_usd` is None when one of the estimates is unknown: a sum without it would be too low.
    """

    requests: int = 0
    cost_usd: float = 0.0
    unknown: int = 0
    estimate_usd: float | None = 0.0

    @property
    def words(self) -> str:
        """`$1.40, estimated $1.26`; empty when there was nothing to pay for."""
        if not self.requests:
            return ""
        paid = paid_in_words(self.cost_usd, self.unknown, self.requests)
        return paid + estimate_in_words(self.cost_usd, self.unknown, self.estimate_usd)


NOTHING = Costs()
"""What a job costs that nothing was asked for."""


def total(charges: Iterable[Charge]) -> Costs:
    """Add charges up."""
    listed = list(charges)
    costs = [charge.cost_usd for charge in listed if charge.cost_usd is not None]
    estimates = [charge.estimate_usd for charge in listed if charge.estimate_usd is not None]
    return Costs(
        requests=len(listed),
        cost_usd=sum(costs),
        unknown=len(listed) - len(costs),
        estimate_usd=sum(estimates) if len(estimates) == len(listed) else None,
    )


def paid_in_words(cost_usd: float, unknown: int, requests: int) -> str:
    """Write `$1.40`, `$1.12, unknown for 2 of 10`, or `unknown` where RunComfy told nothing."""
    if not unknown:
        return usd(cost_usd)
    if unknown >= requests:
        return "unknown"
    return f"{usd(cost_usd)}, unknown for {unknown:,} of {requests:,}"


def paid_together(several: Iterable[Costs]) -> str:
    """Merge several costs into one, without their estimates; empty without any request."""
    listed = [costs for costs in several if costs.requests]
    if not listed:
        return ""
    known, unknown = sum(c.cost_usd for c in listed), sum(c.unknown for c in listed)
    return paid_in_words(known, unknown, sum(c.requests for c in listed))


def estimate_in_words(cost_usd: float, unknown: int, estimate_usd: float | None) -> str:
    """Say what there is to say of the estimate behind the cost; nothing where it was right."""
    if estimate_usd is None:
        return ", estimate unknown"
    if not unknown and usd(cost_usd) == usd(estimate_usd):
        return ""
    return f", estimated {usd(estimate_usd)}"
