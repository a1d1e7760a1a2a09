import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyline.job import PENDING, Job, JobState, Placement
from comfyline.report.costs import Charge, total
from comfyline.report.gallery import Card, cards, write_gallery
from comfyline.report.summary import RunSummary
from comfyline.run import Outcome

SUMMARY = RunSummary(
    run_id="r1", pipeline="office", jobs=3, persisted=1, reused=1, failed=1, cancelled=0,
    in_doubt=0, submitted=2, cost_usd=0.28, estimate_usd=0.26, seconds=83.0,
)  # fmt: skip
STARTED = datetime(2025, 11, 22, 11, 15, tzinfo=UTC)
CARD = Card(
    title="cat · edit · 1:1", item="cat", step="edit", model="google/nano", state=JobState.PERSISTED
)


Write = Callable[..., str]


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, kind: str = ""):
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and kind in ["", *(attrs.get("class") or "").split(" ")]
        ]


@pytest.fixture
def write(tmp_path: Path):
    def write(*cards: Card, summary: RunSummary = SUMMARY) -> str:
        target = tmp_path / "out" / "gallery.html"
        write_gallery(target, summary, STARTED, cards)
        return target.read_text(encoding="utf-8")

    return write


@pytest.fixture
def thumbnail(tmp_path: Path):
    path = tmp_path / "thumb.jpg"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_everything_from_outside_is_escaped(write: Write):
    evil = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
    card = Card(
        title=evil, item=evil, step=evil, model=evil, state=JobState.FAILED,
        links=(f"s3://b/{evil}", f"file:///o/{evil}"), prompt=evil, settings={evil: evil},
        request_id=evil, message=evil, hint=evil,
    )  # fmt: skip

    text = write(card, summary=SUMMARY.model_copy(update={"pipeline": evil, "run_id": evil}))
    page = Page(text)

    assert "<script>alert" not in text
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert evil in page.text


def test_the_page_asks_nothing_of_the_network(write: Write, thumbnail: Path):
    text = write(
        replace(
            CARD,
            before=(thumbnail,),
            after=(thumbnail, None),
            links=("https://h.net/a.png?X-Amz-Signature=1", "https://h.net/a.mp4"),
        )
    )
    page = Page(text)
    asked = [attrs.get(name) for _, attrs in page.tags for name in ("src", "href") if name in attrs]

    assert asked
    assert all(address.startswith("data:image/jpeg;base64,") for address in asked)
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "X-Amz-" not in text


def test_the_only_script_is_the_one_of_the_page(write: Write):
    text = write(CARD)
    (script,) = Page(text).all("script")

    assert f"'nonce-{script['nonce']}'" in text
    assert f"'nonce-{script['nonce']}'" not in write(CARD)


def test_every_picture_has_an_alternative_text(write: Write, thumbnail: Path):
    images = Page(write(replace(CARD, before=(thumbnail,), after=(thumbnail,)))).all("img")

    assert [image["alt"] for image in images] == ["Before: cat", "After: cat · edit · 1:1"]


def test_local_outputs_open_relative_to_the_page(write: Write, tmp_path: Path, thumbnail: Path):
    output = tmp_path / "out" / "in a folder" / "50% #1?.png"
    page = Page(write(replace(CARD, after=(thumbnail,), links=(output.as_uri(),))))

    assert {link["href"] for link in page.all("a")} == {"in%20a%20folder/50%25%20%231%3F.png"}


def test_outputs_in_a_bucket_are_shown_as_text(write: Write, thumbnail: Path):
    page = Page(write(replace(CARD, after=(thumbnail,), links=("s3://bucket/a/cat.png",))))

    assert page.all("a") == []
    assert "s3://bucket/a/cat.png" in page.text


def test_no_other_scheme_ever_becomes_a_link(write: Write, thumbnail: Path):
    card = replace(CARD, after=(thumbnail,) * 2, links=("javascript://x/%0aalert(1)", "data://x,y"))

    assert Page(write(card)).all("a") == []


@pytest.mark.parametrize("name", ["a.svg", "a.HTML", "a.xml"])
def test_what_may_run_scripts_is_no_picture_and_no_link(write: Write, tmp_path: Path, name: str):
    page = Page(write(replace(CARD, after=(None,), links=((tmp_path / name).as_uri(),))))

    assert (page.all("a"), page.all("img"), page.all("video")) == ([], [], [])
    assert name in page.text


def test_a_local_video_plays_and_one_elsewhere_is_named(write: Write, tmp_path: Path):
    film = (tmp_path / "out" / "a.mp4").as_uri()
    page = Page(write(replace(CARD, after=(None, None), links=(film, "s3://b/a.mp4"))))

    assert [(film["src"], film["preload"]) for film in page.all("video")] == [("a.mp4", "none")]
    assert len(page.all("div", "blank")) == 1


def test_what_an_item_was_made_from_is_shown_once(write: Write, thumbnail: Path, tmp_path: Path):
    other = tmp_path / "other.jpg"
    Image.new("RGB", (8, 8)).save(other)
    first = replace(CARD, before=(thumbnail,))

    page = Page(write(first, first, replace(first, step="animate", before=(other,))))

    assert [image["alt"] for image in page.all("img")] == [
        "Before: cat",
        "Before: cat · edit · 1:1",
    ]
    assert len(page.all("section")) == 1


def test_a_failure_says_why_and_what_to_do(write: Write):
    card = replace(CARD, state=JobState.IN_DOUBT, message="No answer", hint="comfyline resolve k")
    text = write(card)

    assert len(Page(text).all("article", "is-bad")) == 1
    assert "No answer" in text
    assert "comfyline resolve k" in text
    assert "in doubt" in text


def test_a_presigned_url_in_a_message_loses_its_query(write: Write):
    text = write(replace(CARD, state=JobState.FAILED, message="https://b.s3/a?X-Amz-Signature=1"))

    assert "X-Amz-" not in text


def test_the_facts_of_a_job_and_of_the_run_are_said(write: Write):
    card = replace(
        CARD, prompt="soft daylight", settings={"ratio": "1:1"}, seconds=71,
        costs=total([Charge(0.14, 0.13)]),
        request_id="req-1",
    )  # fmt: skip
    page = Page(write(card))

    for fact in (
        "soft daylight",
        "$0.14",
        "1 min 11 s",
        "req-1",
        "google/nano",
        "$0.28",
        "estimated $0.26",
        "$0.14, estimated $0.13",
    ):
        assert fact in page.text
    assert "22 November 2025, 11:15 UTC" in page.text
    assert page.all("li")[0]["title"] == "ratio: 1:1"


def test_a_cost_that_nobody_knows_is_said_to_be_unknown(write: Write):
    unknown = replace(CARD, costs=total([Charge(None, None)]))
    known = replace(CARD, costs=total([Charge(0.14, 0.14)]))
    summary = SUMMARY.model_copy(update={"cost_usd": 0.0, "cost_unknown": 2})

    text = Page(write(unknown, known, summary=summary)).text

    assert "unknown, estimate unknown" in text
    assert "$0.14, unknown for 1 of 2" in text
    assert "cost for 2 submissions" in text
    assert "$0.00" not in text


def test_a_run_with_nothing_to_make_has_a_page(write: Write):
    assert "nothing to make" in write(summary=SUMMARY.model_copy(update={"jobs": 0}))


def test_a_thumbnail_that_is_gone_leaves_a_gap_and_not_a_missing_page(write: Write, tmp_path: Path):
    page = Page(write(replace(CARD, after=(tmp_path / "gone.jpg",), links=("s3://b/a.png",))))

    assert page.all("img") == []
    assert len(page.all("div", "blank")) == 1


def test_a_file_name_that_is_not_utf8_does_not_cost_the_page(write: Write):
    assert "caf?" in write(replace(CARD, item="caf\udce9"))


def test_nothing_appears_under_the_name_when_the_cards_break_off(tmp_path: Path):
    def cards() -> Iterator[Card]:
        yield CARD
        raise RuntimeError("ledger gone")

    target = tmp_path / "gallery.html"
    with pytest.raises(RuntimeError, match="ledger gone"):
        write_gallery(target, SUMMARY, STARTED, cards())

    assert list(tmp_path.iterdir()) == []


def test_a_page_that_was_there_stays_when_the_next_one_breaks_off(tmp_path: Path):
    target = tmp_path / "gallery.html"
    write_gallery(target, SUMMARY, STARTED, [CARD])
    before = target.read_text()

    with pytest.raises(ZeroDivisionError):
        write_gallery(target, SUMMARY, STARTED, (1 / 0 for _ in range(1)))

    assert target.read_text() == before


def test_only_the_cards_of_one_item_are_held_at_a_time(tmp_path: Path, thumbnail: Path):
    # Each item's first card looks at what is on disk: the items before it are written by then.
    written = []

    def item(number: int) -> Iterator[Card]:
        written.append(sum(part.stat().st_size for part in tmp_path.glob(".*.part")))
        yield replace(CARD, item=f"cat-{number}", before=(thumbnail,), prompt="long " * 4000)

    cards = chain.from_iterable(map(item, range(50)))
    write_gallery(tmp_path / "gallery.html", SUMMARY, STARTED, cards)

    steps = [later - earlier for earlier, later in pairwise(written[5:])]
    assert max(steps) < 3 * 21_000
    assert written[-1] > 40 * 20_000


def test_the_page_reads_without_its_script(write: Write, thumbnail: Path):
    text = re.sub(
        r"<script.*?</script>", "", write(replace(CARD, after=(thumbnail,))), flags=re.DOTALL
    )
    page = Page(text)

    assert [box["id"] for box in page.all("input") if box["type"] == "radio"] == [
        "show-all", "show-stored", "show-bad",
    ]  # fmt: skip
    assert "hidden" in next(box for box in page.all("input") if box["type"] == "search")


def outcome(state: JobState = JobState.PERSISTED, **more: Any) -> Outcome:
    inputs = {"prompt": "x", "images": [f"{PENDING}image:edit-0"], "aspect_ratio": "1:1"}
    job = Job("p", "a", "edit", "m", inputs, Placement("out", "x", {}))
    return Outcome(job=job, key="a", state=state, **more)


@pytest.mark.parametrize(
    ("outcomes", "charge", "costs"),
    [
        ([outcome(reused=True, cost_usd=0.14)], None, ["$0.14"]),
        ([outcome(), outcome()], Charge(0.14, 0.14), ["$0.14", ""]),
        ([outcome(JobState.FAILED)], Charge(0.14, None), ["$0.14, estimate unknown"]),
    ],
)
def test_a_card_says_what_its_job_cost_and_of_two_with_one_key_the_first_has_paid(
    outcomes: list[Outcome], charge: Charge | None, costs: list[str]
) -> None:
    shown = list(cards(outcomes, Path("thumbnails"), {"a": [charge]} if charge else {}))

    assert [card.costs.words for card in shown] == costs
    # What was never made is no setting.
    assert dict(shown[0].settings) == {"aspect_ratio": "1:1"}
