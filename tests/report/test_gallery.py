import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyline.errors import ComfylineError, GenerationFailed
from comfyline.job import PENDING, CheckedJob, Job, JobState, Media, Placement, StoredOutput
from comfyline.report.gallery import write_gallery
from comfyline.report.summary import Charge, RunSummary
from comfyline.run import Outcome

SUMMARY = RunSummary(
    run_id="r1", pipeline="office", jobs=3, persisted=1, reused=1, failed=1, cancelled=0,
    in_doubt=0, submitted=2, cost_usd=0.28, estimate_usd=0.26, seconds=83.0,
)  # fmt: skip
STARTED = datetime(2025, 11, 22, 11, 15, tzinfo=UTC)
SMALL = "small"
"""The SHA-256 of what has a small picture."""
Write = Callable[..., str]


def made(
    *uris: str,
    before: Sequence[str] = (),
    sha256: str = SMALL,
    item: str = "cat",
    state: JobState = JobState.PERSISTED,
    inputs: dict[str, Any] | None = None,
    **more: Any,
) -> Outcome:
    job = Job("p", item, "edit", "google/nano", inputs or {}, Placement("out", "x", {}))
    job = replace(job, settings={"ratio": "1:1"})
    media = tuple(
        Media(("images", number), origin, "image", sha256, 1, "image/png")
        for number, origin in enumerate(before)
    )
    outputs = tuple(StoredOutput(0, uri, sha256, 1, "image/png") for uri in uris)
    checked = CheckedJob(job, "key", media, None)
    return Outcome(job, "key", state, checked=checked, outputs=outputs, **more)


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = []
        self.text = ""
        self.texts = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
        self.texts += [data.strip()] if data.strip() else []

    def all(self, tag: str, kind: str = ""):
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and kind in ["", *(attrs.get("class") or "").split(" ")]
        ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    small = tmp_path / "thumbnails" / f"{SMALL}.jpg"
    small.parent.mkdir()
    Image.new("RGB", (8, 8), "red").save(small)

    def write(
        *outcomes: Outcome,
        summary: RunSummary = SUMMARY,
        charges: Sequence[Charge] = (),
        each: Iterable[Outcome] | None = None,
    ) -> str:
        target = tmp_path / "out" / "gallery.html"
        paid = {"key": charges} if charges else {}
        write_gallery(target, summary, STARTED, each or outcomes, small.parent, paid)
        return target.read_text(encoding="utf-8")

    return write


def test_everything_from_outside_is_escaped(write: Write):
    evil = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
    one = made(
        f"s3://b/{evil}", "file:///o/%3Cscript%3E", before=[evil], sha256="none", item=evil,
        state=JobState.FAILED, inputs={"prompt": evil, evil: evil}, request_id=evil,
        error=ComfylineError(evil, hint=evil),
    )  # fmt: skip
    one = replace(one, job=replace(one.job, step=evil, model_id=evil, labels={"client": evil}))

    text = write(one, summary=SUMMARY.model_copy(update={"pipeline": evil, "run_id": evil}))
    page = Page(text)

    assert "<script>alert" not in text
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert evil in page.text


def test_the_page_asks_nothing_of_the_network_and_runs_no_other_script(write: Write):
    signed = "https://h.net/a.png?X-Amz-Signature=1"
    text = write(
        made(signed, "https://h.net/a.mp4", before=[signed], error=GenerationFailed(signed))
    )
    page = Page(text)
    asked = [attrs.get(name) for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    [script] = page.all("script")

    assert asked
    assert all(address.startswith("data:image/jpeg;base64,") for address in asked)
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "X-Amz-" not in text
    assert f"'nonce-{script['nonce']}'" in text
    assert f"'nonce-{script['nonce']}'" not in write(made())


@pytest.mark.parametrize(
    ("uri", "links"),
    [
        ("file://OUT/in%20a%20folder/50%25%20%231%3F.png", ["in%20a%20folder/50%25%20%231%3F.png"]),
        ("file://OUT/caf%E9.png", ["caf%E9.png"]),
        ("s3://bucket/a/cat.png", []),
        # No other scheme ever becomes a link, and nothing that may run scripts.
        ("javascript://x/%0aalert(1)", []),
        ("data:text/html,x", []),
        ("file://OUT/a.svg", []),
        ("file://OUT/a.HTML", []),
        ("file://OUT/a.xml", []),
    ],
)
def test_local_outputs_open_relative_to_the_page_and_nothing_else_does(
    write: Write, tmp_path: Path, uri: str, links: list[str]
):
    for sha256 in (SMALL, "none"):
        page = Page(write(made(uri.replace("OUT", f"{tmp_path}/out"), sha256=sha256)))

        assert sorted({link["href"] for link in page.all("a")}) == links
        assert len(page.all("img")) == (sha256 == SMALL)
        assert uri.rpartition("/")[2].partition("%")[0].partition(",")[0] in page.text


def test_a_local_video_plays_and_one_elsewhere_is_named(write: Write, tmp_path: Path):
    film = (tmp_path / "out" / "a.mp4").as_uri()
    page = Page(write(made(film, "s3://b/a.mp4", sha256="none")))

    assert [(film["src"], film["preload"]) for film in page.all("video")] == [("a.mp4", "none")]
    assert len(page.all("div", "blank")) == 1
    assert "s3://b/a.mp4" in page.text


def test_what_an_item_was_made_from_is_shown_once_and_every_picture_says_what_it_is(write: Write):
    first = made("s3://b/a.png", before=["a.png"])

    page = Page(write(first, first, made(before=["other.png"])))

    after = "After: cat · edit · 1:1"
    assert [image["alt"] for image in page.all("img")] == [
        "Before: cat", after, after, "Before: cat · edit · 1:1",
    ]  # fmt: skip
    assert len(page.all("section")) == 1


def test_a_failure_says_why_and_what_to_do(write: Write):
    error = ComfylineError("No answer", hint="comfyline resolve k")
    page = Page(write(made(state=JobState.IN_DOUBT, error=error)))

    assert len(page.all("article", "is-bad")) == 1
    for said in ("No answer", "comfyline resolve k", "in doubt"):
        assert said in page.text


def test_the_facts_of_a_job_and_of_the_run_are_said(write: Write):
    # What was never made is no setting.
    inputs = {"prompt": "soft daylight", "ratio": "1:1", "images": [f"{PENDING}image:edit-0"]}
    one = made(inputs=inputs, seconds=71, request_id="req-1")
    one = replace(one, job=replace(one.job, labels={"client": "acme"}))
    page = Page(write(one, charges=[Charge(0.14, 0.13)]))

    for fact in (
        "soft daylight", "1 min 11 s", "req-1", "google/nano", "$0.28", "estimated $0.26",
        "$0.14, estimated $0.13", "clientacme", "22 November 2025, 11:15 UTC",
    ):  # fmt: skip
        assert fact in page.text
    assert [entry["title"] for entry in page.all("li")] == ["ratio: 1:1"]


@pytest.mark.parametrize(
    ("outcomes", "charges", "said"),
    [
        ([made(reused=True, cost_usd=0.14)], [], ["1 job · $0.14", "$0.14"]),
        # Of two jobs with one key the first has paid.
        ([made(), made()], [Charge(0.14, 0.14)], ["2 jobs · $0.14", "$0.14"]),
        ([made()], [Charge(0.14, None)], ["1 job · $0.14", "$0.14, estimate unknown"]),
        ([made()], [Charge(None, None)], ["1 job · cost unknown", "unknown, estimate unknown"]),
        (
            [made(), made(reused=True, cost_usd=0.2)],
            [Charge(None, 0.1)],
            ["2 jobs · $0.20, unknown for 1 of 2", "unknown, estimated $0.10", "$0.20"],
        ),
    ],
)
def test_what_a_job_and_an_item_have_cost_is_said_and_unknown_is_never_nought(
    write: Write, outcomes: list[Outcome], charges: list[Charge], said: list[str]
):
    summary = SUMMARY.model_copy(update={"cost_usd": 0.0, "cost_unknown": 2})
    page = Page(write(*outcomes, summary=summary, charges=charges))

    assert "cost for 2 submissions, estimated $0.26" in page.texts
    each = [text for name, text in pairwise(page.texts) if name == "cost"]
    assert [page.texts[page.texts.index("cat") + 1], *each] == said
    assert "$0.00" not in page.text


def test_a_run_with_nothing_to_make_has_a_page(write: Write):
    assert "nothing to make" in write(summary=SUMMARY.model_copy(update={"jobs": 0}))


def test_a_thumbnail_that_is_gone_leaves_a_gap_and_a_broken_name_costs_no_page(write: Write):
    page = Page(write(made("s3://b/a.png", sha256="gone", item="caf\udce9")))

    assert page.all("img") == []
    assert len(page.all("div", "blank")) == 1
    assert "caf?" in page.text


def test_a_page_appears_whole_and_stays_when_the_next_one_breaks_off(write: Write, tmp_path: Path):
    def breaking() -> Iterator[Outcome]:
        yield made()
        raise RuntimeError("ledger gone")

    for before in ([], ["gallery.html"]):
        with pytest.raises(RuntimeError, match="ledger gone"):
            write(each=breaking())
        assert [path.name for path in (tmp_path / "out").iterdir()] == before
        write(made())


def test_only_the_cards_of_one_item_are_held_at_a_time(write: Write, tmp_path: Path):
    # Each item's outcome looks at what is on disk: the items before it are written by then.
    written = []

    def outcomes() -> Iterator[Outcome]:
        for number in range(50):
            parts = (tmp_path / "out").glob(".*.part")
            written.append(sum(part.stat().st_size for part in parts))
            yield made(item=f"cat-{number}", before=["a.png"], inputs={"prompt": "long " * 4000})

    write(each=outcomes())

    steps = [later - earlier for earlier, later in pairwise(written[5:])]
    assert max(steps) < 3 * 21_000
    assert written[-1] > 40 * 20_000


def test_the_pictures_of_a_step_that_collects_are_not_held_all_at_a_time(tmp_path: Path):
    (tmp_path / "large.jpg").write_bytes(b"x" * 2**20)
    of_one_item = [made(f"s3://b/{number}.png", sha256="large") for number in range(40)]
    tracemalloc.start()
    try:
        write_gallery(tmp_path / "g.html", SUMMARY, STARTED, of_one_item, tmp_path, {})
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_the_page_reads_without_its_script(write: Write):
    text = re.sub(r"<script.*?</script>", "", write(made()), flags=re.DOTALL)
    page = Page(text)

    assert [box["id"] for box in page.all("input") if box["type"] == "radio"] == [
        "show-all", "show-stored", "show-bad",
    ]  # fmt: skip
    assert "hidden" in next(box for box in page.all("input") if box["type"] == "search")
