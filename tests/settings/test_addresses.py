"""Where things are: which source wins, and what no token goes to."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from comfyline.config.load import home
from comfyline.config.profile import is_loopback
from comfyline.errors import InputInvalid
from tests.settings.conftest import LOCAL, REMOTE, TOKEN, Resolve, Write


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://api.example/", "https://api.example"),
        ("https://api.example:8443", "https://api.example:8443"),
        ("http://localhost:1234/", "http://localhost:1234"),
        ("http://127.8.9.1:80", "http://127.8.9.1:80"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_origin_is_taken_from_the_profile_and_from_the_environment(
    written: str, origin: str, resolved: Resolve
) -> None:
    text = REMOTE.replace("https://api.example", f'"{written}"')
    assert resolved(text).runcomfy.base_url == origin
    override = {**TOKEN, "RUNCOMFY_BASE_URL": f" {written} "}
    assert resolved(REMOTE, override).runcomfy.base_url == origin


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("http://api.example", "unencrypted"),
        ("http://10.0.0.1", "unencrypted"),
        ("https://user:SECRET@api.example", "no user and no password"),
        ("https://api.example/?key=SECRET", "nothing after"),
        ("https://api.example#SECRET", "nothing after"),
        ("https://api.example/v1", "without a path"),
        ("api.example", "https://HOST"),
        ("ftp://api.example", "https://HOST"),
        ("https://", "https://HOST"),
        ("https://api.example:port", "https://HOST"),
        ("https://[::1", "https://HOST"),
        ("https://api.exa mple", "https://HOST"),
        ("https://api.example\\\\@evil.example", "https://HOST"),
        ("local:storage", "local:sandbox"),
    ],
)
def test_no_token_goes_to_what_is_no_safe_origin(
    written: str, words: str, resolved: Resolve, tmp_path: Path
) -> None:
    with pytest.raises(InputInvalid, match=words) as in_profile:
        resolved(REMOTE.replace("https://api.example", f'"{written}"'))
    assert str(in_profile.value).startswith(f"{tmp_path}/configs/profiles/mine.yaml:1:12: ")
    with pytest.raises(InputInvalid, match=rf"RUNCOMFY_BASE_URL: .*{words}") as in_environment:
        resolved(REMOTE, {**TOKEN, "RUNCOMFY_BASE_URL": written})
    assert "SECRET" not in str(in_profile.value) + str(in_environment.value)


def test_loopback_is_this_machine_and_nothing_else() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    others = ("", "0.0.0.0", "10.0.0.1", "localhost.example", "127.0.0.1.x")  # noqa: S104
    assert not any(map(is_loopback, others))


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"AWS_ENDPOINT_URL": "http://one:9", "AWS_ENDPOINT_URL_S3": "http://s3:9"}, "http://s3:9"),
        ({"AWS_ENDPOINT_URL": "http://one:9", "AWS_ENDPOINT_URL_S3": " "}, "http://one:9"),
    ],
)
def test_the_aws_variables_speak_where_the_profile_leaves_the_endpoint_open(
    environ: Mapping[str, str], endpoint: str | None, resolved: Resolve
) -> None:
    storage = resolved(REMOTE, {**TOKEN, **environ}).storage
    assert storage.endpoint_url == endpoint
    assert storage.key is storage.secret is None


def test_an_endpoint_of_the_profile_is_not_overridden(resolved: Resolve) -> None:
    environ = {**TOKEN, "AWS_ENDPOINT_URL_S3": "http://s3:9"}
    text = REMOTE.replace("s3://b/up", "s3://b/up, endpoint_url: https://mine.example")
    assert resolved(text, environ).storage.endpoint_url == "https://mine.example"
    storage = resolved(LOCAL, environ).storage
    assert storage.endpoint_url == "http://127.0.0.1:4274"
    assert storage.key == SecretStr("the-storage-key")


@pytest.mark.parametrize("written", ["localhost:9000", "https://u:SECRET@h", "s3.example"])
def test_an_endpoint_that_is_no_address_is_a_mistake_in_words(
    written: str, resolved: Resolve
) -> None:
    with pytest.raises(InputInvalid, match=r"mine\.yaml:2:"):
        resolved(REMOTE.replace("s3://b/up", f's3://b/up, endpoint_url: "{written}"'))
    with pytest.raises(InputInvalid, match=r"AWS_ENDPOINT_URL_S3: it should") as error:
        resolved(REMOTE, {**TOKEN, "AWS_ENDPOINT_URL_S3": written})
    assert "SECRET" not in str(error.value)


def test_only_what_a_profile_names_of_the_local_stack_is_needed(profile: Write) -> None:
    assert profile(LOCAL).local_services == ("storage", "sandbox")
    assert profile(REMOTE).local_services == ()
    elsewhere = {"RUNCOMFY_BASE_URL": "https://other.example"}
    assert profile(LOCAL, elsewhere).local_services == ("storage",)
    to_sandbox = {"RUNCOMFY_BASE_URL": "local:sandbox"}
    assert profile(REMOTE, to_sandbox).local_services == ("sandbox",)


@pytest.mark.parametrize(
    ("written", "there"),
    [(" ", ".comfyline"), ("state", "state"), ("../x", "../x"), ("/var/x", "/var/x")],
)
def test_local_state_lies_in_the_working_directory_unless_said_otherwise(
    written: str, there: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home() == bare / ".comfyline"
    monkeypatch.setenv("COMFYLINE_HOME", written)
    assert home() == (bare / there).resolve()


def test_the_ledger_is_the_environments_else_the_profiles_else_a_file_at_home(
    profile: Write, tmp_path: Path
) -> None:
    own = REMOTE + "ledger: postgresql://me@h:5432/x?sslmode=require\n"
    named = {"COMFYLINE_LEDGER_URL": "sqlite:///a.db"}
    assert profile(own, named).ledger_url() == "sqlite:///a.db"
    blank = profile(own, {"COMFYLINE_LEDGER_URL": " "})
    assert blank.ledger_url() == "postgresql://me@h:5432/x?sslmode=require"
    at_home = f"sqlite:///{tmp_path}/.comfyline/ledger.sqlite3"
    assert profile(REMOTE).ledger_url() == at_home


def test_a_ledger_that_is_no_url_is_a_mistake_in_words(profile: Write) -> None:
    with pytest.raises(
        InputInvalid, match="COMFYLINE_LEDGER_URL: it should be a database URL"
    ) as error:
        profile(REMOTE, {"COMFYLINE_LEDGER_URL": "ledger.db SECRET"}).ledger_url()
    assert "SECRET" not in str(error.value)
    # Everything after the question mark would be taken for options, and the ledger be elsewhere.
    with pytest.raises(InputInvalid, match="question mark"):
        profile(REMOTE, {"COMFYLINE_HOME": "/what?/home"}).ledger_url()
