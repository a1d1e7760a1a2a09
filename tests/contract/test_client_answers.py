"""Every answer that the written API allows is understood by the client, and nothing else is."""

import math
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyline.errors import (
    BrokenAnswer,
    ComfylineError,
    NoBalance,
    NotKnownNow,
    Refused,
    TokenRejected,
    TryLater,
    Unreachable,
)
from comfyline.job import JobState
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.verdict import Accepted, No, SlowDown, Unknown
from tests.contract.description import written
from tests.runcomfy.conftest import Script

STEADY = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
STATES = {
    "in_queue": JobState.IN_QUEUE,
    "pending": JobState.IN_QUEUE,
    "waiting": JobState.IN_QUEUE,
    "in_progress": JobState.IN_PROGRESS,
    "starting": JobState.IN_PROGRESS,
    "processing": JobState.IN_PROGRESS,
    "completed": JobState.COMPLETED,
    "succeeded": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
    "canceled": JobState.CANCELLED,
}
ABOUT_A_REQUEST = ("status", "result", "cancel")
CALLS = ("submit", *ABOUT_A_REQUEST, "catalogueEntry", "catalogue", "balance")


@cache
def some(name: str) -> st.SearchStrategy[Any]:
    return written().examples({"$ref": f"#/components/schemas/{name}"})


def of_family(answer: dict[str, Any], family: int) -> dict[str, Any]:
    """The same refusal with a code, if it has one, that nobody documented: 422 makes 422900."""
    code = {"error_code": family * 1000 + 900} if "error_code" in answer else {}
    return {**answer, **code}


class Asking:
    """One client, the answer that it will get, and a new place for each result."""

    def __init__(self, client: RuncomfyClient, script: Script, place: Path) -> None:
        self._client, self._script, self._place = client, script, place
        self._asked = 0

    async def __call__(self, name: str, answer: Any, status: int = 200, *, about: str = "r") -> Any:
        """What the client makes of an answer: a value, or the error that it raises.

        An answer about a request is about `about`, where it says so; asked is about `r`.
        """
        self._asked += 1
        if name in ABOUT_A_REQUEST and isinstance(answer, dict) and "request_id" in answer:
            answer = {**answer, "request_id": about}
        self._script.answers.clear()
        self._script.calls.clear()
        self._script.say(answer, status)
        client, cache_file = self._client, self._place / f"{self._asked}.json"
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "submit": lambda: client.submit("acme/brush", {"prompt": "a vase"}),
            "status": lambda: client.status("r"),
            "result": lambda: client.result("r", cache_file),
            "cancel": lambda: client.cancel("r"),
            "catalogueEntry": lambda: client.catalogue_entry("acme/brush"),
            "catalogue": client.models,
            "balance": client.balance,
        }
        try:
            return await calls[name]()
        except ComfylineError as error:
            return error
        finally:
            # Of pages, a second one may be asked for.
            assert len(self._script.calls) in ({1, 2} if name == "catalogue" else {1})


@pytest.fixture(scope="module")
def ask(client: RuncomfyClient, script: Script, tmp_path_factory: pytest.TempPathFactory) -> Asking:
    return Asking(client, script, tmp_path_factory.mktemp("results"))


def error_of(outcome: Any) -> Any:
    """The error in an outcome, whether it was raised or lies in a submission's verdict."""
    return outcome.error if isinstance(outcome, No | SlowDown) else outcome


@STEADY
@given(answer=some("Submission"))
async def test_a_submission_is_accepted_under_its_id(ask: Asking, answer: Any):
    assert await ask("submit", answer) == Accepted(answer["request_id"])


@STEADY
@given(answer=some("Submission"), code=st.integers(1, 999999))
async def test_an_id_beside_an_error_code_is_for_a_person_to_look_at(
    ask: Asking, answer: Any, code: int
):
    assert isinstance(await ask("submit", {**answer, "error_code": code}), Unknown)


@STEADY
@given(answer=some("Status"))
async def test_a_status_says_where_a_request_stands(ask: Asking, answer: Any):
    status = await ask("status", answer)
    assert status.state is STATES[answer["status"]]
    position = answer.get("queue_position")
    assert status.queue_position == position or (
        status.queue_position is None and position > 1_000_000
    )


@STEADY
@given(answer=some("Status"), word=st.text(st.characters(codec="utf-8")))
async def test_a_word_that_nobody_knows_is_no_end(ask: Asking, answer: Any, word: str):
    status = await ask("status", {**answer, "status": f"x{word}"})
    assert status.state is None


@STEADY
@given(answer=some("Result"))
async def test_a_result_has_its_outputs_and_its_charge_when_that_is_known(ask: Asking, answer: Any):
    result = await ask("result", answer)
    assert result.state is STATES[answer["status"]]
    assert result.output == answer.get("output")
    cost = answer.get("cost", -1)
    assert result.cost_usd == (cost if cost >= 0 and math.isfinite(cost) else None)


@STEADY
@given(answer=some("Result"), sentence=st.text("abc xyz", min_size=1).map(str.strip))
async def test_a_failed_request_says_why(ask: Asking, answer: Any, sentence: str):
    for error in (sentence, {"code": "generation_failed", "message": sentence}):
        result = await ask("result", {**answer, "status": "failed", "error": error})
        assert result.state is JobState.FAILED
        assert sentence in result.error


@STEADY
@given(answer=some("Cancellation"))
async def test_a_cancellation_is_honest(ask: Asking, answer: Any):
    state = STATES[answer["status"]]
    outcome = await ask("cancel", answer)
    if state in {JobState.COMPLETED, JobState.FAILED} and answer["outcome"] == "cancelled":
        assert type(outcome) is BrokenAnswer
    else:
        gone = state is JobState.CANCELLED
        assert outcome == ("cancelled" if gone else answer["outcome"])


@STEADY
@given(
    name=st.sampled_from(ABOUT_A_REQUEST),
    status=st.sampled_from([200, 400, 404]),
    code=st.sampled_from([{}, {"error_code": 404001}]),
    data=st.data(),
)
async def test_an_answer_about_another_request_is_none(
    ask: Asking, name: str, status: int, code: dict[str, int], data: Any
):
    written_as = {"status": "Status", "result": "Result", "cancel": "Cancellation"}
    answer = {**data.draw(some(written_as[name])), "request_id": "", **code}
    outcome = await ask(name, answer, status, about="another")
    assert type(outcome) is BrokenAnswer
    assert outcome.request_id == "r"
    assert "another" in outcome.message


@STEADY
@given(answer=some("Status"), outcome=st.sampled_from(["completed", "failed", "cancelled"]))
async def test_an_end_that_contradicts_itself_is_none(ask: Asking, answer: Any, outcome: str):
    said = await ask("status", {**answer, "outcome": outcome})
    ends = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
    state = STATES[answer["status"]]
    contradicts = state in ends and state is not STATES[outcome]
    assert (type(said) is BrokenAnswer) == contradicts


@STEADY
@given(answer=some("Balance"))
async def test_the_balance_is_what_is_said(ask: Asking, answer: Any):
    assert await ask("balance", answer) == answer["balance_usd"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Refused),
        (400, Refused),
        (401, TokenRejected),
        (402, NoBalance),
        (403, TokenRejected),
        (422, Refused),
        (429, TryLater),
        (500, Unreachable),
        (502, Unreachable),
        (503, Unreachable),
    ],
)
@STEADY
@given(name=st.sampled_from(CALLS), data=st.data())
async def test_an_error_is_of_the_type_that_its_http_status_says(
    ask: Asking, name: str, status: int, kind: type[ComfylineError], data: Any
):
    schema = "CodedRefusal" if status == 200 else "Refusal"
    answer = of_family(data.draw(some(schema)), 422 if status == 200 else status)
    outcome = await ask(name, answer, status)
    if name == "submit" and kind is Unreachable:
        # Theirs, and they may have accepted it.
        assert isinstance(outcome, Unknown)
    else:
        assert type(error_of(outcome)) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400001, Refused),
        (400002, NoBalance),
        (400004, TokenRejected),
        (403001, Refused),
        (404001, NotKnownNow),
    ],
)
@STEADY
@given(name=st.sampled_from(CALLS), status=st.sampled_from([200, 400]), answer=some("CodedRefusal"))
async def test_an_error_code_says_more_than_the_http_status(
    ask: Asking, name: str, status: int, code: int, kind: type[ComfylineError], answer: Any
):
    outcome = error_of(await ask(name, {**answer, "error_code": code}, status))
    # Only a request can be unknown for a while; a model is just unknown.
    about_a_request = name in ABOUT_A_REQUEST
    assert type(outcome) is (Refused if kind is NotKnownNow and not about_a_request else kind)


@STEADY
@given(name=st.sampled_from(ABOUT_A_REQUEST), answer=some("Refusal"))
async def test_a_request_that_is_unknown_is_not_known_now(ask: Asking, name: str, answer: Any):
    said = any(answer.get(k) for k in ("error_code", "error_message", "message", "error", "detail"))
    outcome = await ask(name, of_family(answer, 404), 404)
    # An empty page says nothing of RunComfy's: it may be somebody else's.
    assert type(outcome) is (NotKnownNow if said else Unreachable)


@STEADY
@given(
    name=st.sampled_from(CALLS),
    sentence=st.text("abcxyz", min_size=8),
    field=st.sampled_from(["error_message", "message", "error", "detail"]),
    shape=st.sampled_from(["text", "list", "object"]),
)
async def test_an_error_carries_the_sentence_of_runcomfys(
    ask: Asking, name: str, sentence: str, field: str, shape: str
):
    value: Any = sentence
    if field == "detail" and shape == "list":
        value = [{"loc": ["body", "prompt"], "msg": sentence, "type": "missing"}]
    if field == "error" and shape == "object":
        value = {"message": sentence}
    answer = {field: value}
    assert not written().mistakes({"$ref": "#/components/schemas/Refusal"}, answer)
    assert sentence in error_of(await ask(name, answer, 422)).message
