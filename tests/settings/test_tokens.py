"""Which token goes where, and that nothing shows it."""

import copy
import dataclasses
import pickle

import pytest

from comfyline.config.load import find_token
from comfyline.config.settings import LocalStack, Secret
from comfyline.errors import InputInvalid, TokenRejected, Unreachable
from tests.settings.conftest import LOCAL, REMOTE, Resolve, Write

NAMED = REMOTE.replace("api.example", "api.example, token_env: MY_TOKEN")


@pytest.mark.parametrize(
    ("text", "environ", "token"),
    [
        (REMOTE, {"RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "a"),
        (REMOTE, {"RUNCOMFY_TOKEN": "b"}, "b"),
        (REMOTE, {"RUNCOMFY_API_TOKEN": " \n", "RUNCOMFY_TOKEN": "b"}, "b"),
        (REMOTE, {"RUNCOMFY_API_TOKEN": " a\n"}, "a"),
        (NAMED, {"MY_TOKEN": "c", "RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "c"),
    ],
)
def test_the_token_is_the_first_variable_that_holds_one(
    text: str, environ: dict[str, str], token: str, resolved: Resolve
):
    assert resolved(text, environ).runcomfy.token.value == token


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (REMOTE, {}),
        (REMOTE, {"RUNCOMFY_API_TOKEN": "", "RUNCOMFY_TOKEN": " \t"}),
        (NAMED, {"RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}),
    ],
)
def test_without_a_token_the_variables_that_were_tried_are_named(
    text: str, environ: dict[str, str], profile: Write
):
    tried = "MY_TOKEN is" if text is NAMED else "RUNCOMFY_API_TOKEN and RUNCOMFY_TOKEN are"
    with pytest.raises(TokenRejected, match=f"{tried} not set") as error:
        find_token(profile(text), environ)
    assert error.value.exit_code == 77


@pytest.mark.parametrize("written", ["Bearer SECRET", "SECRET\nx", "SECRET\u200b1", "„SECRET”"])
def test_what_cannot_be_a_token_is_said_and_not_shown(written: str, profile: Write):
    with pytest.raises(TokenRejected, match="RUNCOMFY_API_TOKEN holds is not a token") as error:
        find_token(profile(REMOTE), {"RUNCOMFY_API_TOKEN": written})
    assert "SECRET" not in str(error.value)


def test_the_sandbox_gets_its_own_token_and_never_the_users(resolved: Resolve):
    settings = resolved(LOCAL, {"RUNCOMFY_API_TOKEN": "mine", "RUNCOMFY_TOKEN": "mine-too"})
    assert settings.runcomfy.token == Secret("the-sandbox-token")
    assert settings.runcomfy.base_url == "http://127.0.0.1:4273"


def test_the_sandbox_needs_no_token_of_the_users(resolved: Resolve, profile: Write):
    assert find_token(profile(LOCAL), {}) is None
    assert resolved(LOCAL, {}).runcomfy.token == Secret("the-sandbox-token")


def test_the_sandbox_token_goes_to_no_other_origin(resolved: Resolve):
    elsewhere = {"RUNCOMFY_BASE_URL": "https://other.example"}
    with pytest.raises(TokenRejected):
        resolved(LOCAL, elsewhere)
    settings = resolved(LOCAL, {**elsewhere, "RUNCOMFY_API_TOKEN": "mine"})
    assert (settings.runcomfy.base_url, settings.runcomfy.token.value) == (
        "https://other.example",
        "mine",
    )


def test_the_users_token_does_not_follow_an_override_to_the_sandbox(resolved: Resolve):
    environ = {"RUNCOMFY_BASE_URL": "local:sandbox", "RUNCOMFY_API_TOKEN": "mine"}
    assert resolved(REMOTE, environ).runcomfy.token == Secret("the-sandbox-token")


@pytest.mark.parametrize(
    "stack",
    [
        LocalStack(),
        LocalStack(sandbox_url="http://127.0.0.1:1", sandbox_token=Secret("t")),
        LocalStack(storage_endpoint="http://127.0.0.1:1"),
    ],
)
def test_a_local_service_that_does_not_run_is_never_replaced_by_another(
    stack: LocalStack, resolved: Resolve
):
    with pytest.raises(Unreachable, match="does not run"):
        resolved(LOCAL, {"RUNCOMFY_API_TOKEN": "mine"}, stack)


def test_neither_repr_nor_asdict_nor_a_format_shows_a_secret(resolved: Resolve):
    environ = {"COMFYLINE_LEDGER_URL": "postgresql://u:the-password@h/x"}
    settings = resolved(LOCAL, environ)
    shown = f"{settings!r} {settings} {dataclasses.asdict(settings)} {settings.runcomfy.token}"
    for secret in ("the-sandbox-token", "the-storage", "the-password"):
        assert secret not in shown
    assert settings.ledger_url.value == environ["COMFYLINE_LEDGER_URL"]


def test_a_secret_is_a_value():
    secret = Secret("x")
    assert secret == Secret("x") == copy.deepcopy(secret) == pickle.loads(pickle.dumps(secret))  # noqa: S301
    assert secret != "x"
    assert secret != Secret("y")
    assert len({secret, Secret("x")}) == 1


def test_a_token_in_place_of_its_variables_name_is_refused_and_not_repeated(profile: Write):
    text = REMOTE.replace("api.example", "api.example, token_env: rc-5f0e-SECRET")
    with pytest.raises(InputInvalid, match="never the token itself") as error:
        profile(text)
    assert "SECRET" not in str(error.value)
