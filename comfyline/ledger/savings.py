"""What a run did not pay again, counted at its end and kept for `comfyline report`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from comfyline.job import JobState
from comfyline.run import Outcome, Provenance


@dataclass(frozen=True, slots=True)
class Saving:
    """What a run did not pay again of one model and with the same labels.

    `reused` jobs had their outputs there; `taken_over` ones somebody had submitted before, and they
    were fetched instead of submitted. `cost_usd` is what they had cost, for `cost_unknown` of them
    nobody knows it.
    """

    model_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    reused: int = 0
    taken_over: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0


def savings_of(
    outcomes: Iterable[Outcome], made: Mapping[str, Provenance], paid: Collection[str]
) -> list[Saving]:
    """Count what a run did not pay again: `paid` are the keys of its own requests.

    Of several jobs with one key one has paid; in a run that is retried that is an earlier try.
    """
    free: list[Outcome] = []
    own = set(paid)
    for one in outcomes:
        if one.state is not JobState.PERSISTED or one.is_old:
            continue
        if one.reused or (one.cost_usd is None and not one.cost_unknown):
            free.append(one)
        else:
            own.discard(one.key)
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Outcome]] = defaultdict(list)
    for one in free:
        if one.key in own:
            own.discard(one.key)
        else:
            groups[one.job.model_id, tuple(one.job.labels.items())].append(one)
    return [
        _saving(model_id, dict(labels), some, made) for (model_id, labels), some in groups.items()
    ]


def _saving(
    model_id: str,
    labels: Mapping[str, str],
    outcomes: Collection[Outcome],
    made: Mapping[str, Provenance],
) -> Saving:
    costs = [made[one.key].cost_usd if one.key in made else None for one in outcomes]
    reused = sum(one.reused for one in outcomes)
    return Saving(
        model_id=model_id,
        labels=labels,
        reused=reused,
        taken_over=len(outcomes) - reused,
        cost_usd=sum(cost for cost in costs if cost is not None),
        cost_unknown=costs.count(None),
    )
