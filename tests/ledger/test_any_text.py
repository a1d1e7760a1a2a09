"""Whatever stands in a name, a path or an answer can be kept, and is what it was afterwards."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, select, text, type_coerce, update

from comfyline.errors import GenerationFailed, Rejected
from comfyline.job import JobState, Media, Placement
from comfyline.ledger.claims import Claimed
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.queries import Selection
from comfyline.ledger.tables import Document, attempts
from comfyline.pipeline.output_names import output_uris
from tests.ledger.conftest import Desk, asked, output

LATIN_1 = os.fsdecode("Gärten".encode("latin-1"))
ODD = [LATIN_1, "a\0b", "\ud800", "\ufdd10000", "ж → 🐈", "\udcff\udcfe", "\\udce4 \\u0000"]


@pytest.fixture(params=ODD, ids=ascii)
def odd(request: pytest.FixtureRequest) -> str:
    """A text that some database does not take."""
    return str(request.param)


async def test_a_job_comes_out_as_it_went_in(odd: str, desk: Desk, ledger: Ledger):
    placement = Placement(f"/out/{odd}", f"{odd}-{{{{ index }}}}.png", {odd: odd}, root=f"/{odd}")
    job = asked(placement=placement, item=odd, step=odd, pipeline=odd, settings={odd: [odd]})
    attempt_id = await desk.claimed(job)
    await ledger.accepted(attempt_id, "r-1")
    await ledger.ended(attempt_id, JobState.FAILED, GenerationFailed(f"{odd} is wrong"))
    known = await desk.known(job)
    assert known.checked == job
    [listed] = await ledger.list(Selection(pipeline=odd))
    assert listed == known
    assert (await ledger.summaries([job.key]))[job.key].placement == placement
    [earlier] = await ledger.previous_attempts([job])
    assert earlier == (job, job)


async def test_a_rejected_job_of_any_name_stops_nobody(odd: str, desk: Desk, ledger: Ledger):
    """Whether a refresh began it is counted from what is kept of it."""
    job = asked(item=odd)
    attempt_id = await desk.submitted(job)
    await ledger.completed(attempt_id, 0.1)
    await ledger.ended(attempt_id, JobState.FAILED, Rejected("It is black"))
    assert (await desk.known(job)).rejections == 1
    [listed] = await ledger.list()
    assert listed.checked.job.item == odd
    assert isinstance(await desk.claim(asked("another")), Claimed)
    assert not isinstance(await desk.claim(job), Claimed)


async def test_a_row_of_an_earlier_version_is_read_where_it_could_be_written(
    desk: Desk, ledger: Ledger
):
    """Without escapes of ours: PostgreSQL takes these texts and cannot look into them."""
    job = asked()
    attempt_id = await desk.submitted(job)
    await ledger.completed(attempt_id, 0.1)
    await ledger.ended(attempt_id, JobState.FAILED, Rejected("It is black"))
    # As a text, past the escapes.
    kept = type_coerce(attempts.c.request, JSON)
    packed = await ledger.database.read(lambda c: c.execute(select(kept)).scalar_one())
    packed["job"]["item"] = "a\0\udce4"
    as_before = update(attempts).values({attempts.c.request: type_coerce(packed, JSON)})
    await ledger.database.run(lambda c: c.execute(as_before))
    known = await desk.known(job)
    assert (known.checked.job.item, known.rejections) == ("a\0\udce4", 1)


async def test_a_file_of_such_a_name_is_found_again_where_the_ledger_says(
    desk: Desk, ledger: Ledger, tmp_path: Path
):
    folder = tmp_path / LATIN_1
    job = asked(placement=Placement(str(folder), f"{LATIN_1}.{{{{ ext }}}}", {}))
    before = output_uris(job.job.placement, [output()])
    await desk.stored(job, output(before[0]))
    known = await desk.known(job)
    assert output_uris(known.placement, known.outputs) == before
    assert await ledger.stored_at(before) == {before[0]: known}


async def test_media_of_such_a_name_are_kept(desk: Desk):
    medium = Media(("prompt",), f"/in/{LATIN_1}.jpg", "image", "0" * 64, 3, "image/jpeg")
    job = replace(asked(), media=(medium,))
    await desk.claimed(job)
    assert (await desk.known(job)).checked.media == (medium,)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_every_document_is_escaped_without_loss(value: object):
    document = Document()
    kept = document.process_bind_param(value, None)  # type: ignore[arg-type]
    str(kept).encode()
    assert document.process_result_value(kept, None) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["{}", "[]", '{"job": {"item": 3}}', "null"])
async def test_a_broken_row_hides_no_other_and_is_not_made_anew(
    broken: str, desk: Desk, ledger: Ledger
):
    await desk.stored(asked("whole"))
    await desk.submitted(asked("broken"))
    values = {"request": json.loads(broken), "evidence": []}
    breaks = update(attempts).where(attempts.c.key == asked("broken").key).values(values)
    await ledger.database.run(lambda c: c.execute(breaks))
    listed = {one.checked.key: one for one in await ledger.list()}
    assert listed[asked("whole").key].checked == asked("whole")
    damaged = listed[asked("broken").key]
    assert (damaged.state, damaged.checked.job.item) == (JobState.SUBMITTED, "cat")
    assert (await ledger.summaries([asked("broken").key]))[asked("broken").key].placement
    assert await ledger.previous_attempts([asked("whole")]) != [None]
    assert not isinstance(await desk.claim(asked("broken")), Claimed)


async def test_a_file_ledger_with_no_json_in_a_row_is_still_read(tmp_path: Path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}", "here:1")
    desk = Desk(ledger)
    await desk.submitted(asked())
    await ledger.database.run(
        lambda c: c.execute(text("UPDATE attempts SET request = '{no json', evidence = ''"))
    )
    assert (await desk.known(asked())).state is JobState.SUBMITTED
    ledger.close()
