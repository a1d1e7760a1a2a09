"""RunComfy and the people who use it, in memory, for the model check of the ledger."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from comfyline.errors import ComfylineError, InDoubt, Refused
from comfyline.job import CheckedJob, JobState
from comfyline.ledger.attempts import Evidence
from comfyline.ledger.claims import Claim, Claimed, Limits
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.writes import StateConflict
from tests.ledger.conftest import Clock

Do = Callable[[Awaitable[Any]], Any]
Mark = tuple[str, int]
"""A job's key and the number of the attempt: what may be charged once."""


class Answer(Enum):
    """How a POST can end for the one who sent it."""

    ACCEPTED = auto()
    ACCEPTED_AND_LOST = auto()
    LOST_ON_THE_WAY = auto()
    REFUSED = auto()
    SLOW_DOWN = auto()
    NEVER_SENT = auto()


UNHEARD = {Answer.ACCEPTED_AND_LOST, Answer.LOST_ON_THE_WAY}
CHARGED = {Answer.ACCEPTED, Answer.ACCEPTED_AND_LOST}


@dataclass
class Request:
    """What RunComfy keeps of a request that it accepted."""

    id: str
    of: Mark
    state: JobState = JobState.IN_QUEUE
    gone: bool = False


@dataclass
class RunComfy:
    """It charges for what it accepts, whoever asks and however often."""

    requests: dict[str, Request] = field(default_factory=dict)
    charges: Counter[Mark] = field(default_factory=Counter)
    open_posts: Counter[Mark] = field(default_factory=Counter)

    def post(self, of: Mark, answer: Answer) -> str | None:
        """One POST; the request id when its sender hears of it."""
        if answer in CHARGED | UNHEARD:
            # What may have been accepted, as far as its sender can know.
            self.open_posts[of] += 1
        if answer not in CHARGED:
            return None
        request = Request(f"r-{len(self.requests) + 1}", of)
        self.requests[request.id] = request
        self.charges[of] += 1
        return request.id if answer is Answer.ACCEPTED else None

    def accepted_as(self, of: Mark) -> Request | None:
        """What a person finds who looks for a submission."""
        return next((one for one in self.requests.values() if one.of == of), None)


@dataclass
class Sending:
    """A claim in the hands of a worker, and what came of its POST once that has left."""

    checked: CheckedJob
    run_id: str
    attempt_id: int
    number: int
    mark: str
    answer: Answer | None = None
    request_id: str | None = None

    @property
    def of(self) -> Mark:
        return self.checked.key, self.number


@dataclass
class Talk:
    """Request ids that workers had in their hands, and those that an error told to a person."""

    heard: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)


class Worker:
    """One process: its ledger, its clock, and what it holds in memory, which dies with it."""

    def __init__(
        self, url: str, name: str, world: Clock, do: Do, runcomfy: RunComfy, talk: Talk
    ) -> None:
        self.name, self.world, self.do = name, world, do
        self.runcomfy, self.talk = runcomfy, talk
        self.ahead = 0.0
        self.ledger = Ledger(url, name, self.now)
        self.hands: list[Sending] = []
        self.began: dict[str, datetime] = {}

    def now(self) -> datetime:
        return self.world.time + timedelta(seconds=self.ahead)

    def claim(self, checked: CheckedJob, run_id: str, *, refresh: bool, limits: Limits) -> Claim:
        """Commits the intent: the money is not spent yet."""
        claim: Claim = self.do(
            self.ledger.claim(
                checked,
                run_id=run_id,
                refresh=refresh,
                limits=limits,
                began=self.began.get(run_id),
            )
        )
        if isinstance(claim, Claimed):
            self.hands.append(Sending(checked, run_id, claim.attempt_id, claim.number, claim.mark))
        return claim

    def post(self, sending: Sending, answer: Answer) -> None:
        """The one POST of a claim."""
        sending.request_id = self.runcomfy.post(sending.of, answer)
        sending.answer = answer

    def write_down(self, sending: Sending) -> None:
        """What the worker knows of its POST goes into the ledger, or into an error."""
        self.hands.remove(sending)
        self.talk.heard |= {sending.request_id} if sending.request_id else set()
        try:
            match sending.answer:
                case Answer.ACCEPTED:
                    self.do(self.ledger.accepted(sending.attempt_id, str(sending.request_id)))
                case Answer.REFUSED:
                    said = Refused("no")
                    self.do(self.ledger.ended(sending.attempt_id, JobState.FAILED, said))
                case Answer.ACCEPTED_AND_LOST | Answer.LOST_ON_THE_WAY:
                    doubt, seen = InDoubt("no answer"), Evidence(how_far="body-sent")
                    ended = self.ledger.ended(
                        sending.attempt_id, JobState.IN_DOUBT, doubt, evidence=seen
                    )
                    self.do(ended)
                case _:
                    self.do(self.ledger.not_sent(sending.attempt_id, sending.mark))
        except StateConflict as late:
            self.talk.told |= {late.request_id} if late.request_id else set()

    def look(self, attempt_id: int, request_id: str) -> None:
        """Polls one request and writes down what RunComfy says of it."""
        request = self.runcomfy.requests[request_id]
        try:
            match request.state:
                case _ if request.gone:
                    gone = ComfylineError("RunComfy does not know it any more")
                    self.do(self.ledger.ended(attempt_id, JobState.EXPIRED, gone))
                case JobState.IN_QUEUE | JobState.IN_PROGRESS:
                    self.do(self.ledger.observed(attempt_id, request.state))
                case JobState.COMPLETED:
                    self.do(self.ledger.completed(attempt_id, 0.7))
                case ended:
                    said = ComfylineError(f"It {ended}")
                    self.do(self.ledger.ended(attempt_id, ended, said, cost_usd=0.0))
        except StateConflict:
            # Another worker was quicker, and said an end.
            pass
