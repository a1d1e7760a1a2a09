"""Which token goes where, that nothing shows it, and secrets in profiles by reference alone."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest

from comfyline.config import environment
from comfyline.config.settings import BlockOutOfReach, Secret
from comfyline.errors import InputInvalid, TokenRejected, Unreachable, UsageError
from comfyline.stack.stack import StackAddresses
from tests.settings.conftest import LOCAL, REMOTE, STACK, TOKEN, Resolve, Write

NAMED = REMOTE.replace("api.example", "api.example, token_env: MY_TOKEN")
IN_BLOCKS = (
    REMOTE.replace("api.example", "api.example, token_block: rc-token") + "ledger: {block: db}\n"
)


@pytest.mark.parametrize(
    ("text", "environ", "token"),
    [
        (REMOTE, {"RUNCOMFY_API_TOKEN": " a\n", "RUNCOMFY_TOKEN": "b"}, "a"),
        (REMOTE, {"RUNCOMFY_API_TOKEN": " \n", "RUNCOMFY_TOKEN": "b"}, "b"),
        (NAMED, {"MY_TOKEN": "c", "RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "c"),
    ],
)
def test_the_token_is_the_first_variable_that_holds_one(
    text: str, environ: dict[str, str], token: str, resolved: Resolve
) -> None:
    assert resolved(text, environ).runcomfy.token.value == token


@pytest.mark.parametrize(
    ("text", "environ", "tried"),
    [
        (REMOTE, {"RUNCOMFY_TOKEN": " \t"}, "RUNCOMFY_API_TOKEN and RUNCOMFY_TOKEN are"),
        (NAMED, {"RUNCOMFY_API_TOKEN": "a", "RUNCOMFY_TOKEN": "b"}, "MY_TOKEN is"),
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
        profile(IN_BLOCKS).token({"rc-token": Secret(held)})
    with pytest.raises(TokenRejected) as in_variable:
        profile(REMOTE, {"RUNCOMFY_API_TOKEN": held}).token()
    assert "SECRET" not in str(in_block.value) + str(in_variable.value)


def test_the_sandbox_gets_its_own_token_and_never_the_users(
    resolved: Resolve, profile: Write
) -> None:
    assert profile(LOCAL).token() is None
    there = resolved(LOCAL).runcomfy
    assert (there.base_url, there.token.value) == ("http://127.0.0.1:4273", "the-sandbox-token")
    overridden = resolved(REMOTE, {"RUNCOMFY_BASE_URL": "local:sandbox", **TOKEN}).runcomfy
    assert overridden.token.value == "the-sandbox-token"


def test_the_sandbox_token_goes_to_no_other_origin(resolved: Resolve) -> None:
    elsewhere = {"RUNCOMFY_BASE_URL": "https://other.example"}
    with pytest.raises(TokenRejected):
        resolved(LOCAL, elsewhere)
    assert resolved(LOCAL, {**elsewhere, **TOKEN}).runcomfy.token.value == "my-token"


@pytest.mark.parametrize(
    "stack",
    [
        dataclasses.replace(STACK, storage_endpoint=None),
        dataclasses.replace(STACK, sandbox_url=None, sandbox_token=None),
        StackAddresses(),
    ],
)
def test_a_local_service_that_does_not_run_is_never_replaced_by_another(
    stack: StackAddresses, resolved: Resolve
) -> None:
    with pytest.raises(Unreachable, match="is not running"):
        resolved(LOCAL, TOKEN, stack)


def test_neither_repr_nor_asdict_nor_a_format_shows_a_secret(resolved: Resolve) -> None:
    environ = {"COMFYLINE_LEDGER_URL": "postgresql://u:the-password@h/x"}
    settings = resolved(LOCAL, environ)
    shown = f"{settings!r} {settings} {dataclasses.asdict(settings)} {settings.runcomfy.token}"
    for secret in ("the-sandbox-token", "the-storage", "the-password"):
        assert secret not in shown
    assert settings.ledger_url.value == environ["COMFYLINE_LEDGER_URL"]


def test_a_secret_is_a_value() -> None:
    secret = Secret("x")
    assert secret == Secret("x") == copy.deepcopy(secret) == pickle.loads(pickle.dumps(secret))  # noqa: S301
    assert secret != "x"
    assert len({secret, Secret("x"), Secret("y")}) == 2


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


@pytest.mark.parametrize(
    "ledger",
    [
        "postgresql://me:SECRET@host/db",
        "postgresql+psycopg://:SECRET@host/db",
        "postgresql://me:@host/db",
        "postgresql://host/db?user=me&password=SECRET",
        "postgresql://host/db?sslmode=require&sslpassword=SECRET",
    ],
)
def test_a_password_in_yaml_is_refused_with_what_to_write_and_never_repeated(
    ledger: str, profile: Write
) -> None:
    with pytest.raises(InputInvalid) as caught:
        profile(f"{REMOTE}ledger: {ledger}\n")

    [problem] = caught.value.problems
    assert problem.where.endswith("mine.yaml:3:1")
    assert "write {env: NAME} or {block: NAME}" in problem.message
    assert "SECRET" not in str(problem)


@pytest.mark.parametrize(
    "ledger",
    [
        "SECRET of mine",
        "{env: postgresql://me:SECRET@h/d}",
        "{block: postgresql://me:SECRET@h/d}",
        "{env: A, block: b}",
        "{env: A, password: SECRET}",
        "[postgresql://me:SECRET@h/d]",
        "5",
    ],
)
def test_what_is_no_reference_is_a_located_mistake(ledger: str, profile: Write) -> None:
    with pytest.raises(InputInvalid) as caught:
        profile(f"{REMOTE}ledger: {ledger}\n")

    assert all("mine.yaml:3:" in problem.where for problem in caught.value.problems)
    assert "SECRET" not in str(caught.value)


def test_the_ledgers_url_may_be_kept_in_a_variable(profile: Write) -> None:
    text = f"{REMOTE}ledger: {{env: MY_LEDGER}}\n"

    kept = profile(text, {"MY_LEDGER": " postgresql://u:p@h/d\n"}).ledger_url()
    assert kept == "postgresql://u:p@h/d"
    with pytest.raises(InputInvalid, match="variable MY_LEDGER, which is not set; export MY_LEDG"):
        profile(text, {"MY_LEDGER": " "}).ledger_url()
    with pytest.raises(InputInvalid, match="MY_LEDGER: this is not a database URL") as caught:
        profile(text, {"MY_LEDGER": "SECRET"}).ledger_url()
    assert "SECRET" not in str(caught.value)


def test_only_the_blocks_that_are_needed_are_named(profile: Write) -> None:
    assert profile(IN_BLOCKS).blocks == ("rc-token", "db")
    assert profile(IN_BLOCKS, {"COMFYLINE_LEDGER_URL": "sqlite:///a"}).blocks == ("rc-token",)
    assert profile(IN_BLOCKS, {"RUNCOMFY_BASE_URL": "local:sandbox"}).blocks == ("db",)
    assert profile(LOCAL).blocks == ()


@pytest.mark.usefixtures("bare")
async def test_blocks_are_read_where_there_is_a_server_and_asked_for_by_name(
    profile: Write,
) -> None:
    profile(IN_BLOCKS)
    asked = []

    async def read(name: str) -> str:
        asked.append(name)
        return {"rc-token": " my-token\n", "db": "postgresql://u:SECRET@h/d"}[name]

    settings = await environment.prepare("mine", print, read)

    assert asked == ["rc-token", "db"]
    assert settings.runcomfy.token.value == "my-token"
    assert settings.ledger_url.value == "postgresql://u:SECRET@h/d"
    assert "SECRET" not in repr(settings)


@pytest.mark.usefixtures("bare")
async def test_a_command_without_a_server_says_that_a_block_needs_one(profile: Write) -> None:
    profile(IN_BLOCKS)

    for work in (environment.look, environment.profile_ledger_url):
        with pytest.raises(BlockOutOfReach, match="needs a Prefect server") as caught:
            work("mine")
        assert caught.value.exit_code == UsageError.exit_code
    with pytest.raises(BlockOutOfReach, match="`rc-token`, which needs a Prefect server"):
        await environment.prepare("mine", print)
    # Whether there is a token can be told only where the blocks are read.
    environment.check_token("mine")


def test_a_profile_extends_another_one(bare: Path, profile: Write) -> None:
    (bare / "base.yaml").write_text(
        REMOTE.replace("api.example", "api.example, token_env: OTHER, in_flight: 8, patience: 9s")
    )

    runcomfy = profile(
        "extends: base.yaml\nruncomfy: {in_flight: 4, token_env: null, token_block: mine}\n"
    ).document.runcomfy

    assert (runcomfy.in_flight, runcomfy.patience) == (4, 9.0)
    assert (runcomfy.token_env, runcomfy.token_block) == ("RUNCOMFY_API_TOKEN", "mine")


def test_a_mistake_in_the_base_of_a_profile_is_told_there(bare: Path, profile: Write) -> None:
    (bare / "base.yaml").write_text(f"{REMOTE}ledger: postgresql://u:SECRET@h/d\n")
    with pytest.raises(InputInvalid, match=r"^base\.yaml:3:1: .*contains a password") as caught:
        profile("extends: base.yaml\nruncomfy: {in_flight: 4}\n")
    assert "SECRET" not in str(caught.value)
