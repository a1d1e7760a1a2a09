"""Every point at which the process is killed, in the order in which a run comes to them."""

from dataclasses import dataclass, field
from typing import Any

from tests.crash.breaks import Break, How

_SLOWLY: dict[str, Any] = {"on": "generation", "kind": "delay", "seconds": 2}
_UNANSWERED: dict[str, Any] = {"on": "submit", "kind": "delay", "seconds": 20}


@dataclass(frozen=True)
class Point:
    """One place to die.

    `doubt`: whether a person has to look afterwards, because nothing else can know. `then` is the
    command that comes next. Without `at`, the process is killed from outside once the sandbox has
    accepted its request. `edited`: the prompt was another one before, whose output has the name.
    """

    name: str
    at: Break | None
    doubt: bool = False
    to: str = "out"
    then: str = "run"
    fault: dict[str, Any] | None = field(default=None, compare=False)
    has_ledger: bool = True
    edited: bool = False


def _before(name: str, target: str, **more: Any) -> Point:
    nth, given = more.pop("nth", 1), more.pop("given", None)
    return Point(name, Break("before", target, nth, given), **more)


def _after(name: str, target: str, **more: Any) -> Point:
    nth, given = more.pop("nth", 1), more.pop("given", None)
    return Point(name, Break("after", target, nth, given), **more)


def _transaction(
    name: str, target: str, *, begun: bool = False, doubts: str = "", **more: Any
) -> list[Point]:
    """Right before a commit and right after it, and if asked also before anything is written."""
    nth, given = more.pop("nth", 1), more.pop("given", None)
    moments: tuple[tuple[How, str], ...] = (
        ("before", "begun"),
        ("commit", "before the commit"),
        ("committed", "committed"),
    )
    return [
        Point(f"{name}: {words}", Break(how, target, nth, given), how in doubts.split(), **more)
        for how, words in moments
        if begun or how != "before"
    ]


def _wire(name: str, event: str, **more: Any) -> Point:
    return Point(f"POST: {name}", Break("wire", event), doubt=True, **more)


_LEDGER = "comfyline.ledger.ledger:Ledger"
_JOURNAL = "comfyline.ledger.journal:Journal"
_CLIENT = "comfyline.runcomfy.client:RuncomfyClient"
_BUCKET = "comfyline.storage.s3:Bucket"
_FOLDER = "comfyline.storage.local:Folder"
_MOVE = "comfyline.ledger.writes:move"

_BEFORE_THE_COST = [
    _before("YAML not read", "comfyline.cli.run:load_pipeline"),
    Point(
        "ledger made: before the commit",
        Break("commit", "comfyline.ledger.database:migrate"),
        has_ledger=False,
    ),
    _after("run known", f"{_LEDGER}.open_run"),
    _after("survey done", "flows.schedule:run_preflight"),
    *_transaction("hold", "comfyline.ledger.locks:JobLocks._take"),
    Point("upload: half of the bytes", Break("sending", "/uploads/")),
    _after("upload: done", f"{_BUCKET}.put"),
    _after("presigned", "comfyline.storage.uploads:Uploads.presign"),
    _after("its turn to claim", f"{_CLIENT}.known_balance"),
    *_transaction("claim", "comfyline.ledger.claims:claim", begun=True, doubts="committed"),
]
_POST = [
    _before("journal: no place yet", f"{_JOURNAL}.reserve", doubt=True),
    Point(
        "journal: half of the place",
        Break("half", "comfyline.ledger.journal:_append", nth=2),
        doubt=True,
    ),
    _after("journal: place reserved", f"{_JOURNAL}.reserve", doubt=True),
    _before("POST: not begun", f"{_CLIENT}.submit", doubt=True),
    _wire("connected", "connect_tcp.complete"),
    _wire("half of the body sent", "half the body"),
    _wire("all but a byte sent", "all but a byte"),
    _wire("body sent", "send_request_body.complete"),
    Point("POST: accepted, not answered", None, doubt=True, fault=_UNANSWERED),
    _wire("answer arrived, not read", "receive_response_headers.complete"),
    _after("POST: answer understood", f"{_CLIENT}.submit", doubt=True),
    _before("journal: id not written", f"{_JOURNAL}.accepted", doubt=True),
    _after("journal: id written", f"{_JOURNAL}.accepted"),
    *_transaction("accepted", "comfyline.ledger.writes:accept", begun=True),
]
_AT_RUNCOMFY = [
    _after("poll: first status", f"{_CLIENT}.status"),
    Point("in_progress: committed", Break("committed", _MOVE, given="in_progress"), fault=_SLOWLY),
    *_transaction("completed", _MOVE, given="completed"),
    _before("result: not asked", f"{_CLIENT}.result", then="reconcile"),
    Point("result: half written down", Break("half", "comfyline.runcomfy.results")),
    _after("result: written down", "comfyline.runcomfy.client:keep_result"),
]
_STORING = [
    Point("download: half", Break("half", "comfyline.runcomfy.download"), then="reconcile"),
    _after("fetch: decoded", "comfyline.runcomfy.download:check_whole"),
    Point("download: before its rename", Break("rename", "*~*-0")),
    Point("fetch: half remembered", Break("half", "prefect.filesystems")),
    Point("thumbnail: before its rename", Break("rename", "thumbnails/*.jpg")),
    Point("persist: half of the file", Break("half", "comfyline.storage.local")),
    _before("persist: before the rename", "comfyline.storage.local:_appear", then="reconcile"),
    _after("persist: has both names", "comfyline.storage.local:_appear"),
    _after("persist: renamed, no sidecar", f"{_FOLDER}.put"),
    Point("sidecar: half", Break("half", "comfyline.storage.local", nth=2)),
    _after("sidecar: done", f"{_FOLDER}.put_text", then="reconcile"),
    *_transaction("persisted", "comfyline.ledger.ledger:record_outputs"),
    _after("work folder: half cleared", "pathlib:Path.unlink", given="result.json"),
    *_transaction("hold released", "comfyline.ledger.locks:JobLocks._let_go"),
    Point("gallery: half", Break("half", "comfyline.report.gallery")),
    Point("summary: before its rename", Break("rename", "summary.json")),
    _after("report: done", "flows.pipeline:finish"),
]
_BUCKETS = "s3://comfyline/crash/{name}"
_STORING_IN_S3 = [
    Point("s3: half of the file", Break("sending", "/crash/"), to=_BUCKETS),
    _after("s3: stored, no sidecar", f"{_BUCKET}.put", nth=2, to=_BUCKETS),
    Point("s3: half of the sidecar", Break("sending", "/crash/", nth=2), to=_BUCKETS),
    *_transaction("s3: persisted", "comfyline.ledger.ledger:record_outputs", to=_BUCKETS),
]

_MOVING_ASIDE = [
    Point("aside: half of the copy", Break("half", "comfyline.storage.local"), edited=True),
    _after("aside: copied, no sidecar", f"{_FOLDER}.put", edited=True, then="reconcile"),
    _after("aside: with its sidecar", f"{_FOLDER}.put_text", edited=True),
    *_transaction("aside", "comfyline.ledger.ledger:move_output", edited=True),
    _after("aside: the name is taken", f"{_FOLDER}.put", nth=2, edited=True),
    _after("aside: the new sidecar", f"{_FOLDER}.put_text", nth=2, edited=True),
    _after("s3 aside: copied, no sidecar", f"{_BUCKET}.put", edited=True, to=_BUCKETS),
    Point(
        "s3 aside: committed",
        Break("committed", "comfyline.ledger.ledger:move_output"),
        edited=True,
        to=_BUCKETS,
    ),
    Point(
        "s3 aside: half of the new", Break("sending", "/crash/", nth=3), edited=True, to=_BUCKETS
    ),
]

POINTS = [
    *_BEFORE_THE_COST,
    *_POST,
    *_AT_RUNCOMFY,
    *_STORING,
    *_STORING_IN_S3,
    *_MOVING_ASIDE,
]
