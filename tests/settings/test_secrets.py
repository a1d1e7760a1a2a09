"""Which token goes where, that nothing shows it, and secrets in profiles by reference alone."""

import dataclasses

import pytest
from pydantic import SecretStr

from comfyline.config.load import look, prepare
from comfyline.errors import InputInvalid, TokenRejected, UsageError
from comfyline.stack.stack import StackAddresses
from tests.settings.conftest import LOCAL, REMOTE, TOKEN, Resolve, Write

NAMED = REMOTE.replace("api.example", "api.example, token_env: MY_TOKEN")
IN_BLOCKS = (
    REMOTE.replace("api.example", "api.example, token_block: rc-token") + "ledger: {block: db}\n"
)
ELSEWHERE = {"RUNCOMFY_BASE_URL": "https://other.example"}


@pytest.mark.parametrize(
    ("text", "environ", "token"),
    [
        (REMOTE, {"RUNCOMFY_API_TOKEN": " a\n", "RUNCOMFY_TOKEN": "b"}, "a"),
        (REMOTE, {"RUNCOMFY_API_TOKEN": " \n", "RUNCOMFY_TOKEN": "b"}, "b"),
        (NAMED, {"MY_TOKEN": "c", "RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "c"),
        (LOCAL, {**ELSEWHERE, **TOKEN}, "my-token"),
        (LOCAL, {}, "the-sandbox-token"),
        (REMOTE, {"RUNCOMFY_BASE_URL": "local:sandbox", **TOKEN}, "the-sandbox-token"),
    ],
)
def test_the_token_is_the_first_variable_that_holds_one_and_the_sandbox_has_its_own(
    text: str, environ: dict[str, str], token: str, resolved: Resolve
) -> None:
    assert resolved(text, environ).runcomfy.token == SecretStr(token)


@pytest.mark.parametrize(
    ("text", "environ", "tried"),
    [
        (REMOTE, {"RUNCOMFY_TOKEN": " \t"}, "RUNCOMFY_API_TOKEN and RUNCOMFY_TOKEN are"),
        (NAMED, {"RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "MY_TOKEN is"),
        (LOCAL, ELSEWHERE, "RUNCOMFY_API_TOKEN and RUNCOMFY_TOKEN are"),
    ],
)
def test_without_a_token_the_variables_that_were_tried_are_named(
    text: str, environ: dict[str, str], tried: str, profile: Write
) -> None:
    with pytest.raises(TokenRejected, match=f"{tried} not set") as caught:
        profile(text, environ).token()
    assert caught.value.exit_code == 77


@pytest.mark.parametrize("held", ["", "Bearer SECRET", "SECRET\nx", "SECRET\u200b1", "„SECRET”"])
def test_what_cannot_be_a_token_is_said_and_not_shown(held: str, profile: Write) -> None:
    with pytest.raises(TokenRejected, match="Prefect block `rc-token` holds is not a") as in_block:
        dataclasses.replace(profile(IN_BLOCKS), held={"rc-token": SecretStr(held)}).token()
    with pytest.raises(TokenRejected) as in_variable:
        profile(REMOTE, {"RUNCOMFY_API_TOKEN": held}).token()
    assert "SECRET" not in str(in_block.value) + str(in_variable.value)


def test_a_local_service_that_does_not_run_is_never_replaced_by_another(resolved: Resolve) -> None:
    settings = resolved(LOCAL, {**TOKEN, "AWS_ENDPOINT_URL": "http://other"}, StackAddresses())
    assert settings.runcomfy.base_url == settings.storage.endpoint_url == "http://127.0.0.1:9"
    # Keys of its own: those of the machine must not be tried at an address that is not theirs.
    assert settings.storage.key == settings.storage.secret == settings.runcomfy.token
    assert settings.runcomfy.token == SecretStr("nobody")


def test_neither_repr_nor_asdict_nor_a_format_shows_a_secret(resolved: Resolve) -> None:
    environ = {"COMFYLINE_LEDGER_URL": "postgresql://u:the-password@h/x"}
    settings = resolved(LOCAL, environ)
    shown = f"{settings!r} {settings} {dataclasses.asdict(settings)} {settings.runcomfy.token}"
    for secret in ("the-sandbox-token", "the-storage", "the-password"):
        assert secret not in shown
    assert settings.ledger_url.get_secret_value() == environ["COMFYLINE_LEDGER_URL"]


@pytest.mark.parametrize(
    ("key", "written", "told"),
    [
        ("token_env", "rc-5f0e-SECRET", "never the token itself"),
        ("token_block", "SECRET/x", "never the secret itself"),
        ("token_block", "Rc-Token", "never the secret itself"),
        ("token_block", "", "never the secret itself"),
        ("token_env: A, token_block", "b", "one source of the token.*away with null"),
    ],
)
def test_a_place_of_a_token_is_a_name_and_one(
    key: str, written: str, told: str, profile: Write
) -> None:
    with pytest.raises(InputInvalid, match=told) as caught:
        profile(REMOTE.replace("api.example", f'api.example, {key}: "{written}"'))
    assert "SECRET" not in str(caught.value)


PASSWORD = "write {env: NAME} or {block: NAME}"


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        ("postgresql://me:SECRET@host/db", PASSWORD),
        ("postgresql+psycopg://:SECRET@host/db", PASSWORD),
        ("postgresql://me:@host/db", PASSWORD),
        ("postgresql://host/db?user=me&password=SECRET", PASSWORD),
        ("postgresql://host/db?sslmode=require&sslpassword=SECRET", PASSWORD),
        ("SECRET of mine", "should be a database URL"),
        ("{env: postgresql://me:SECRET@h/d}", "the name of an environment variable"),
        ("{block: postgresql://me:SECRET@h/d}", "the name of a Prefect Secret block"),
        ("{env: A, block: b}", "exactly one of"),
        ("{env: A, password: SECRET}", "unknown key `password`"),
        ("[postgresql://me:SECRET@h/d]", "should be text"),
        ("5", "should be text"),
    ],
)
def test_what_is_no_place_of_a_ledger_is_said_with_its_own_place_and_never_repeated(
    ledger: str, told: str, profile: Write
) -> None:
    with pytest.raises(InputInvalid) as caught:
        profile(f"{REMOTE}ledger: {ledger}\n")

    [problem] = caught.value.problems
    assert "mine.yaml:3:" in problem.where
    assert told in str(problem)
    assert "SECRET" not in str(problem)


def test_the_ledgers_url_may_be_kept_in_a_variable(profile: Write) -> None:
    text = f"{REMOTE}ledger: {{env: MY_LEDGER}}\n"

    kept = profile(text, {"MY_LEDGER": " postgresql://u:p@h/d\n"}).ledger_url()
    assert kept == "postgresql://u:p@h/d"
    with pytest.raises(InputInvalid, match="variable MY_LEDGER, which is not set; export MY_LEDG"):
        profile(text, {"MY_LEDGER": " "}).ledger_url()
    with pytest.raises(InputInvalid, match="MY_LEDGER: it should be a database URL") as caught:
        profile(text, {"MY_LEDGER": "SECRET"}).ledger_url()
    assert "SECRET" not in str(caught.value)


def test_only_the_blocks_that_are_needed_are_named(profile: Write) -> None:
    assert profile(IN_BLOCKS).blocks == ("rc-token", "db")
    assert profile(IN_BLOCKS, {"COMFYLINE_LEDGER_URL": "sqlite:///a"}).blocks == ("rc-token",)
    assert profile(IN_BLOCKS, {"RUNCOMFY_BASE_URL": "local:sandbox"}).blocks == ("db",)
    assert profile(LOCAL).blocks == ()


async def test_blocks_are_read_where_there_is_a_server_and_asked_for_by_name(
    profile: Write,
) -> None:
    profile(IN_BLOCKS)
    asked = []

    async def read(name: str) -> str:
        asked.append(name)
        return {"rc-token": " my-token\n", "db": "postgresql://u:SECRET@h/d"}[name]

    settings = await prepare("mine", print, read)

    assert asked == ["rc-token", "db"]
    assert settings.runcomfy.token == SecretStr("my-token")
    assert settings.ledger_url == SecretStr("postgresql://u:SECRET@h/d")


async def test_a_command_without_a_server_says_that_a_block_needs_one(profile: Write) -> None:
    loaded = profile(IN_BLOCKS)

    with pytest.raises(UsageError, match="`db`, which needs a Prefect server"):
        loaded.ledger_url()
    with pytest.raises(UsageError, match="`rc-token`, which needs a Prefect server"):
        look("mine")
    with pytest.raises(UsageError, match="`rc-token`, which needs a Prefect server"):
        await prepare("mine", print)
    # Whether there is a token can be told only where the blocks are read.
    loaded.check_token()
