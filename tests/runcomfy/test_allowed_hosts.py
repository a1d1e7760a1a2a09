"""Where outputs may come from, whatever is written in their URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyline.errors import BrokenOutput
from comfyline.runcomfy.allowed_hosts import AllowedHosts, RefusedOutput

HOSTS = AllowedHosts(("*.runcomfy.net", "*.RunComfy.com"), "https://api.test")
LOCAL = AllowedHosts(
    ("cdn.test", "10.0.0.7:8080", "[fd00::1]", "FD00:0::2"), "http://127.0.0.1:8188"
)


def test_a_listed_host_is_allowed_however_it_is_written():
    for url in (
        "https://cdn.runcomfy.net/a",
        "https://CDN.RUNCOMFY.NET/a",
        "https://a.b.runcomfy.com:443/a?x=1",
        "HTTPS://API.TEST/a",
    ):
        assert not HOSTS.check(url).is_named or "api" in url.lower()
    for url in (
        "https://CDN.test/a",
        "https://10.0.0.7:8080/a",
        "https://[FD00:0::1]/a",
        "https://[fd00::2]/a",
    ):
        assert LOCAL.check(url).is_named


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.runcomfy.net/a",
        "ftp://cdn.runcomfy.net/a",
        "https://runcomfy.net/a",
        "https://evil.test/a",
        "https://evilruncomfy.net/a",
        "https://cdn.runcomfy.net.evil.test/a",
        "https://cdn.runcomfy.net@evil.test/",
        "https://cdn.runcomfy.net:x@evil.test/",
        "https://evil.test:8443/.runcomfy.net",
        "https://evil.test?.runcomfy.net",
        "https://evil.test\\.runcomfy.net/",
        "https://evil.test\\@cdn.runcomfy.net/",
        "https://evil.test%2f.runcomfy.net/",
        "https://evil.test/\n.runcomfy.net",
        "https://cdn.runcomfy.net./a",
        "https://user:secret@cdn.runcomfy.net/a",
        "https://[::1]/a",
        "https://127.0.0.1/a",
        "https:///a",
        "https://cdn.runcomfy.net:99999/a",
        "https://[cdn.runcomfy.net/a",
    ],
)
def test_any_other_host_is_refused(url: str):
    with pytest.raises(RefusedOutput) as raised:
        HOSTS.check(url)
    assert "secret" not in str(raised.value)


@given(st.text(), st.text(alphabet="/\\@:?#.%[] a", max_size=4))
def test_nothing_gets_past_the_list_of_hosts(text: str, between: str):
    for url in (
        f"https://{text}{between}cdn.runcomfy.net/",
        f"https://cdn.runcomfy.net{between}{text}/",
    ):
        try:
            allowed = HOSTS.check(url).url
        except BrokenOutput:
            continue
        # What is connected to, and not what another parser would make of it.
        assert allowed.raw_host.lower().endswith((b".runcomfy.net", b".runcomfy.com"))
        assert (allowed.scheme, allowed.userinfo) == ("https", b"")


@pytest.mark.parametrize("form", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1"])
def test_no_pattern_makes_an_address_inside_a_host(form: str):
    with pytest.raises(RefusedOutput):
        AllowedHosts(("*",), "https://api.test").check(f"https://{form}/1.png")


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/",
        "http://localhost:8188/1.png",
        "http://[::ffff:127.0.0.1]:8188/1.png",
        "http://2130706433:8188/1.png",
        "http://0x7f.1:8188/1.png",
        "http://user:pw@127.0.0.1:8188/1.png",
        "http://127.0.0.1:8188@evil.test/",
        "http://127.0.0.1:99999/",
        "//evil.test/1.png",
        "https://evil.test/",
        "ftp://127.0.0.1/",
        "data:text/plain,x",
        "http://[",
    ],
)
def test_a_redirect_leads_nowhere_that_is_not_listed(location: str):
    own = LOCAL.check("http://127.0.0.1:8188/a/1.png?x=1")
    assert str(LOCAL.check_redirect(own, "../b/2.png").url) == "http://127.0.0.1:8188/b/2.png"
    with pytest.raises(RefusedOutput):
        LOCAL.check_redirect(own, location)
