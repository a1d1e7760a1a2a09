"""What holds for every sentence that a person can meet; `make messages` prints them all."""

import re

import pytest

from tests.messages.collect import messages

_CLASS_OF_A_LIBRARY = re.compile(
    r"\b(httpx|botocore|aiobotocore|sqlalchemy|pydantic|pyyaml|psycopg)\b"
    r"|\b[A-Z][a-z]+(?:[A-Z][a-z]+)+(?:Error|Exception)\b"
)


def test_every_room_speaks_and_is_heard() -> None:
    rooms = {"/".join(message.path.parts[:2]) for message in messages()}
    assert {"comfyline/cli", "comfyline/ledger", "comfyline/storage", "flows/session.py"} <= rooms


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("the class of a library is named", _CLASS_OF_A_LIBRARY),
        ("two spaces, or one before a full stop", re.compile(r"[a-z]  [a-z]| [.,;:](\s|$)")),
        ("a full stop after another", re.compile(r"\.\.(?!\.)$")),
    ],
)
def test_no_sentence_breaks_a_rule(rule: str, broken: re.Pattern[str]) -> None:
    fixed = ((message, re.sub(r"\{[^{}]*\}", "…", message.text)) for message in messages())
    wrong = [str(message) for message, text in fixed if broken.search(text)]
    assert not wrong, f"{rule}:\n" + "\n".join(wrong)
