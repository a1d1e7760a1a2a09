"""Every error that a person may see, with what it proves and the exit code it leads to.

    ComfylineError
    ├── UsageError            64  the command line is wrong
    ├── InputInvalid          65  the pipeline or an input is wrong; carries every `Problem` found
    │   └── Altered           65  a local file is no longer the one that was checked or fetched
    ├── Unreachable           69  RunComfy, the storage or the local stack cannot be reached
    │   ├── BrokenAnswer      69  what answers there does not speak as the API is described
    │   ├── Redirected        69  what answers there sends elsewhere, where the token must not go
    │   ├── Unfetchable       69  an input lies where RunComfy cannot fetch it
    │   └── DiskFull          69  there is no room for what arrives
    ├── TryLater              75  rate limit: refused for now
    │   ├── NotKnownNow       75  RunComfy does not know an accepted request at this moment
    │   └── DeadlinePassed    75  the job's time is over; the request stays collectable
    ├── TokenRejected         77  no token, or RunComfy refused it
    ├── Interrupted          130  somebody pressed Ctrl-C
    ├── LeadsOutside           1  a link leads out of the folder that outputs go to
    └── JobError               1  one job ended without its outputs
        ├── Refused               RunComfy said no before accepting: not charged
        │   └── NoBalance         the same, because the account holds no money
        ├── OverBudget            not submitted, a cost limit would be passed
        ├── GenerationFailed      RunComfy accepted it and reports a failure
        ├── Cancelled             cancelled while queued
        ├── InDoubt               the POST may have been accepted; its answer never arrived
        ├── Rejected              paid for, and not what the step's checks ask for; stored aside
        ├── GivenUp               paid for, and a person has given it up
        ├── NameTaken             a file of somebody else's has the output's name, and is kept
        ├── Skipped               needs what a job would have made that came to nothing
        ├── NotBegun              needs what a job is to make that is not finished
        ├── Expired               paid for, and no longer kept by RunComfy
        ├── Defect                a mistake in comfyline itself
        └── BrokenOutput          what arrived is not what was asked for; may be fetched again
            ├── Spoilt            it changed on the local disk before it was stored
            └── OutputUnreachable     its host does not answer, breaks off or is too slow

`kind` is the stable kebab-case name in `--json`. The command line alone renders and exits.

Whoever may repeat something asks the error, and nothing else: `passing` says whether the same may
succeed if it is done again, `retry_after` how long to wait at least, `may_be_charged` whether
money may have been spent. No other place concludes any of this from a status code.
This module imports nothing of the project.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake of the user's, said so that it can be mended.

    `where` is `file:line:column`, a field path or an item; `hint` says what to write instead.
    """

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f"; {self.hint}" if self.hint else "")


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """Return the hint for a misspelt word, ``did you mean `steps`?``; empty if none is near."""
    found = get_close_matches(word, choices, n=1)
    return f"did you mean `{found[0]}`?" if found else ""


class ComfylineError(Exception):
    """The base of all errors that are meant for a person: what is wrong and what to do.

    `request_id` names the paid request where there is one. `passing`: the same question may be
    answered the next time. `retry_after`: seconds that RunComfy asks to wait, None when it does
    not say.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    # Of one kind as a rule; an error that was waited out in vain passes no more.
    passing: bool = False
    _leaves_doubt: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def may_be_charged(self) -> bool:
        """Whether money may have been spent on what this error is about.

        A request with an id was accepted, so it may be charged whatever became of it later.
        """
        return self._leaves_doubt or self.request_id is not None

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class UsageError(ComfylineError):
    """The command line asks for something that does not exist or contradicts itself."""

    kind = "usage"
    exit_code = 64


class InputInvalid(ComfylineError):
    """The pipeline, a profile or an input is wrong. Nothing was sent, nothing was charged."""

    kind = "input-invalid"
    exit_code = 65
    problems: tuple[Problem, ...] = ()

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Altered(InputInvalid):
    """A local file is no longer the one that was checked or fetched. Nothing of it was stored."""

    kind = "input-altered"

    def __init__(self, path: object) -> None:
        super().__init__(
            [Problem(str(path), "the file has changed since it was checked", "run again")]
        )


class Unreachable(ComfylineError):
    """A server that the run needs does not answer. What was submitted stays collectable."""

    kind = "unreachable"
    exit_code = 69
    passing = True


class BrokenAnswer(Unreachable):
    """An answer that the API does not describe: HTML, cut short, without a status."""

    kind = "broken-answer"


class Redirected(Unreachable):
    """The API's address sends elsewhere. Nobody follows: the token goes to its origin alone."""

    kind = "redirected"
    passing = False


class Unfetchable(Unreachable):
    """An input lies where RunComfy cannot fetch it: a job with it would fail, and may be charged.

    Waiting does not mend it: an address, a permission, credentials or a clock is wrong.
    """

    kind = "unfetchable"
    passing = False


class DiskFull(Unreachable):
    """There is no room for what arrives. Nothing is lost; waiting alone makes none."""

    kind = "disk-full"
    passing = False


class TryLater(ComfylineError):
    """Nothing is wrong but the moment: RunComfy asks to slow down."""

    kind = "try-later"
    exit_code = 75
    passing = True


class NotKnownNow(TryLater):
    """RunComfy does not know an accepted request at this moment, which proves nothing.

    A gateway says so while its servers are changed, and so does an origin that never had it. Only
    when the seven days are over, and it is not known hours later either, is the request lost. Not
    passing: it was asked about for as long as the run has patience.
    """

    kind = "not-known-now"
    passing = False


class DeadlinePassed(TryLater):
    """The job's `timeout` is over. The request goes on at RunComfy and stays collectable."""

    kind = "deadline"
    passing = False


class TokenRejected(ComfylineError):
    """There is no token, or RunComfy refused it."""

    kind = "token"
    exit_code = 77


class Interrupted(ComfylineError):
    """The user stopped the run. Everything that was paid for is in the ledger."""

    kind = "interrupted"
    exit_code = 130


class LeadsOutside(ComfylineError):
    """A symbolic link below the folder of the outputs leads out of it. Nothing was written."""

    kind = "leads-outside"


class JobError(ComfylineError):
    """One job ended without its outputs; the other jobs go on."""

    kind = "job-failed"


class Refused(JobError):
    """RunComfy refused the submission, which proves that it was not accepted or charged."""

    kind = "refused"


class NoBalance(Refused):
    """RunComfy refused the submission because the account holds no money."""

    kind = "balance"


class OverBudget(JobError):
    """The job was not submitted because a cost limit would be passed."""

    kind = "over-budget"


class GenerationFailed(JobError):
    """RunComfy accepted the request and later reported that it failed."""

    kind = "generation-failed"


class Cancelled(JobError):
    """The request was cancelled while it was queued."""

    kind = "cancelled"


class InDoubt(JobError):
    """The POST may have been accepted, but its answer never arrived. It is never repeated."""

    kind = "in-doubt"
    _leaves_doubt = True


class Lost(JobError):
    """A person said that RunComfy never accepted a submission that was in doubt."""

    kind = "lost"


class Expired(JobError):
    """The result was paid for, and neither a stored copy nor RunComfy has it any more."""

    kind = "expired"


class Skipped(JobError):
    """A job that was not begun, because another one whose outputs it needs came to nothing."""

    kind = "skipped"


class NotBegun(JobError):
    """A job that waits for the outputs of another one, which its run did not bring to an end."""

    kind = "not-begun"


class Rejected(JobError):
    """An output came whole, and is not what the step's `checks` ask for. It is stored aside."""

    kind = "rejected"


class GivenUp(JobError):
    """A person has given up what was paid for and could not be finished. It counts as charged."""

    kind = "given-up"


class NameTaken(JobError):
    """A file of somebody else's has the output's name, and the pipeline says to keep it.

    What was paid for stays collectable, and the next run stores it once the name is free.
    """

    kind = "name-taken"


class BrokenOutput(JobError):
    """What arrived is empty, cut short or of another type. Fetching it again costs nothing."""

    kind = "broken-output"
    passing = True


class Spoilt(BrokenOutput):
    """What was fetched is not what arrived any more: the disk, or somebody, has changed it."""

    kind = "output-altered"
    passing = False


class OutputUnreachable(BrokenOutput):
    """The host of an output does not answer, breaks off or is too slow. The result is kept there.

    RunComfy itself was reached, so it is a job that is not finished, and nothing more.
    """

    kind = "output-unreachable"


class Defect(JobError):
    """Something that comfyline did not foresee; the log file holds the stack trace."""

    kind = "defect"

    def __init__(self, cause: BaseException) -> None:
        super().__init__(
            f"comfyline failed unexpectedly: {type(cause).__name__}: {cause}",
            hint="The log file of the run has the details. What was paid for is in the ledger.",
        )


def error_types(base: type[ComfylineError] = ComfylineError) -> Iterator[type[ComfylineError]]:
    """Yield a type of error and all that are derived from it."""
    yield base
    for derived in base.__subclasses__():
        yield from error_types(derived)


def recorded_error(
    kind: str, message: str, hint: str = "", request_id: str | None = None
) -> ComfylineError:
    """Make an error again that another process has written down, as what it was."""
    kinds = {one.kind: one for one in error_types()}
    found = kinds.get(kind, JobError)
    error = found.__new__(found)
    ComfylineError.__init__(error, message, hint=hint, request_id=request_id)
    return error
