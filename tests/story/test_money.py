"""The look at the books after each story notices every charge that is one too many or too few."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.stack.stack import StackAddresses
from tests.conftest import EDIT
from tests.money import discrepancies
from tests.story.conftest import Project, project_at

PROMPT = "an office with its books in order"
AGAIN = -1
"""The id of a further attempt, which no ledger has given."""


def bought_beside(project: Project, prompt: str) -> str:
    """The id of a request that was sent to the sandbox without comfyline."""
    answer = httpx.post(
        f"{project.addresses.sandbox_url}/v1/models/{EDIT}",
        headers={"Authorization": "Bearer sandbox-token"},
        json={"prompt": prompt, "image_urls": [f"{project.addresses.sandbox_url}/health"]},
        trust_env=False,
    )
    return str(answer.raise_for_status().json()["request_id"])


def test_a_charge_that_no_attempt_made_fails_its_story(
    tmp_path: Path, stack: StackAddresses, stack_home: Path, forks: Path
) -> None:
    """Also where the session has doubts and failures enough: none of them asked for that."""
    told: dict[str, str] = {}

    def story() -> None:
        with project_at(tmp_path / "project", stack, stack_home, forks) as project:
            project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-before"})
            doubtful = project.run("an office in doubt", "--limit=1")
            assert (doubtful.json["in_doubt"], doubtful.json["persisted"]) == (1, 1)
            assert project.discrepancies() == []
            told["beside"] = bought_beside(project, "an office in doubt")

    with pytest.raises(AssertionError) as failed:
        story()

    assert f"nobody in the ledger made {told['beside']}" in str(failed.value)


@dataclass
class Books:
    """What a sandbox and a ledger say of two pictures, and of one whose answer was lost."""

    place: str
    rows: list[dict[str, Any]]
    attempts: list[Attempt]

    @property
    def lost(self) -> int:
        """Where the row is of which the ledger does not know the id."""
        known = {one.request_id for one in self.attempts}
        [place] = [n for n, row in enumerate(self.rows) if row["request_id"] not in known]
        return place

    @property
    def paid(self) -> tuple[int, int]:
        """Where the attempt is that was stored first, and where its row."""
        place, attempt = next(
            (n, one) for n, one in enumerate(self.attempts) if one.state is JobState.PERSISTED
        )
        ids = [row["request_id"] for row in self.rows]
        return place, ids.index(attempt.request_id)

    def differ(self, refreshed: frozenset[int] = frozenset()) -> list[str]:
        return discrepancies({self.place: self.rows}, self.attempts, refreshed)


@pytest.fixture(scope="module")
def kept_books(
    tmp_path_factory: pytest.TempPathFactory, stack: StackAddresses, stack_home: Path, forks: Path
) -> Iterator[Books]:
    directory = tmp_path_factory.mktemp("money") / "project"
    with project_at(directory, stack, stack_home, forks) as project:
        assert project.run(PROMPT, "--limit=1").code == 0
        project.sandbox("POST", "faults", json={"on": "submit", "kind": "drop-after"})
        lost, only = f"{PROMPT}, once more", "--set=matrix.aspect_ratio=[1:1]"
        assert project.run(lost, "--limit=1", only).json["in_doubt"] == 1
        project.until(lambda: [row["charge_usd"] for row in project.charges(lost)] == [0.14])
        [(place, rows)] = [books for books in project.accounts().items() if books[1]]
        mine = [
            one for one in project.attempts() if one.checked.job.inputs["prompt"] in {PROMPT, lost}
        ]
        assert (len(rows), len(mine)) == (3, 3)
        yield Books(place, rows, mine)


@pytest.fixture
def books(kept_books: Books) -> Books:
    """The books for one test, which may falsify them."""
    return Books(kept_books.place, list(kept_books.rows), list(kept_books.attempts))


def test_books_that_are_right_agree(books: Books) -> None:
    assert books.differ() == []


def a_second_one_for_the_same_doubt(books: Books) -> None:
    books.rows.append({**books.rows[books.lost], "request_id": "one-more"})


def one_in_another_format_than_the_doubt_s(books: Books) -> None:
    row = books.rows[books.lost]
    asked = {**row["input"], "aspect_ratio": "16:9"}
    books.rows[books.lost] = {**row, "request_id": "one-more", "input": asked}


def one_of_another_photograph_than_the_doubt_s(books: Books) -> None:
    row = books.rows[books.lost]
    asked = {**row["input"], "image_urls": [f"http://127.0.0.1/uploads/{'0' * 64}.jpg"]}
    books.rows[books.lost] = {**row, "request_id": "one-more", "input": asked}


def one_that_was_bought_before(books: Books) -> None:
    """The ledger knows both, and nothing says why there are two."""
    place, row = books.paid
    first = books.attempts[place]
    assert first.claimed_at
    later = first.claimed_at + timedelta(minutes=5)
    again = replace(first, id=AGAIN, number=2, request_id="one-more", claimed_at=later)
    books.attempts.append(again)
    books.rows.append({**books.rows[row], "request_id": "one-more"})


def one_that_was_not_charged(books: Books) -> None:
    _, row = books.paid
    books.rows[row] = {**books.rows[row], "charge_usd": 0.0, "status": "failed"}


def one_that_is_not_there(books: Books) -> None:
    _, row = books.paid
    del books.rows[row]


def one_that_cost_more(books: Books) -> None:
    _, row = books.paid
    books.rows[row] = {**books.rows[row], "charge_usd": 0.15}


def one_that_failed_and_was_charged(books: Books) -> None:
    place, _ = books.paid
    paid = books.attempts[place]
    failed = replace(paid, state=JobState.FAILED, cost_usd=None, error_kind="generation-failed")
    books.attempts[place] = failed


@pytest.mark.parametrize(
    ("falsify", "said"),
    [
        (a_second_one_for_the_same_doubt, "nobody in the ledger made one-more"),
        (one_in_another_format_than_the_doubt_s, "nobody in the ledger made one-more"),
        (one_of_another_photograph_than_the_doubt_s, "nobody in the ledger made one-more"),
        (one_that_was_bought_before, "was bought twice at"),
        (one_that_was_not_charged, "persisted in the ledger is"),
        (one_that_is_not_there, "in the ledger and nowhere else"),
        (one_that_cost_more, "$0.14 in the ledger is"),
        (one_that_failed_and_was_charged, "failed for nothing in the ledger is"),
    ],
)
def test_each_charge_is_compared(books: Books, falsify: Callable[[Books], None], said: str) -> None:
    falsify(books)

    [found] = books.differ()
    assert said in found


def test_what_somebody_asked_to_be_made_anew_is_not_bought_twice(books: Books) -> None:
    one_that_was_bought_before(books)

    assert books.differ(refreshed=frozenset({AGAIN})) == []
