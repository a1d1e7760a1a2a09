"""What requests have cost: sums in which what is unknown is counted, and never free."""

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
    def amount(self) -> str:
        """Write `$1.40`, or `unknown` where RunComfy said nothing."""
        all_unknown = 0 < self.unknown >= self.requests and not self.cost_usd
        return "unknown" if all_unknown else usd(self.cost_usd)

    @property
    def remarks(self) -> str:
        """Write `, unknown for 2 of 10, estimated $1.26`: the estimate only where it was wrong."""
        if not (self.requests or self.unknown or self.cost_usd):
            return ""
        if self.estimate_usd is None:
            return f"{self._unknown}, estimate unknown"
        was_right = not self.unknown and usd(self.cost_usd) == usd(self.estimate_usd)
        return self._unknown + ("" if was_right else f", estimated {usd(self.estimate_usd)}")

    @property
    def words(self) -> str:
        """Write both; empty when there was nothing to pay for."""
        return self.amount + self.remarks if self.requests else ""

    @property
    def paid(self) -> str:
        """Write what was paid, without an estimate; empty when there was nothing to pay for."""
        return self.amount + self._unknown if self.requests else ""

    @property
    def _unknown(self) -> str:
        if not self.unknown or self.amount == "unknown":
            return ""
        return f", unknown for {self.unknown:,} of {self.requests:,}"


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
