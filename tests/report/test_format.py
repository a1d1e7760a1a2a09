import pytest

from comfyline.redact import bare_origin, without_secrets
from comfyline.report.format import count, one_line, span, usd


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (None, "…"), (0, "$0.00"), (0.14, "$0.14"), (0.035, "$0.035"), (0.00001, "<$0.0001"),
        (1.2600000000002, "$1.26"), (9.99999, "$10.00"), (1234.5678, "$1,234.57"),
    ],
)  # fmt: skip
def test_money_has_as_many_digits_as_it_needs(amount: float | None, said: str):
    assert usd(amount) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "…"), (0, "0 s"), (4.24, "4.2 s"), (9.97, "10 s"), (41.2, "41 s"),
        (59.7, "1 min 00 s"), (3600, "1 h 00 min"), (7260, "2 h 01 min"),
    ],
)  # fmt: skip
def test_time_is_said_in_the_units_that_matter(seconds: float | None, said: str):
    assert span(seconds) == said


def test_counts_agree_with_their_noun():
    assert [count(n, "job") for n in (0, 1, 12000)] == ["0 jobs", "1 job", "12,000 jobs"]


def test_escape_sequences_and_line_breaks_never_reach_a_line():
    assert one_line("a\n b\t\x1b[31mred\x07") == "a b [31mred"


@pytest.mark.parametrize(
    ("origin", "written"),
    [
        ("samples/what?.jpg", "samples/what?.jpg"),
        ("s3://b/my cat #1?.jpg", "s3://b/my cat #1?.jpg"),
        ("https://u:p@h.net/a b.jpg?X-Amz-Signature=1#t", "https://h.net/a b.jpg"),
        ("HTTPS://h.net/a#token", "HTTPS://h.net/a"),
        ("data:image/png;base64,AAAA", "data:image/png"),
    ],
)
def test_an_origin_keeps_its_address_and_loses_what_may_be_secret(origin: str, written: str):
    assert bare_origin(origin) == written


def test_addresses_inside_a_text_lose_their_queries_and_the_text_stays():
    text = "Why? See https://h.net/a?b=c, or s3://b/a b?X-Amz-Signature=5&x=1 and go on."

    assert without_secrets(text) == "Why? See https://h.net/a or s3://b/a b and go on."
