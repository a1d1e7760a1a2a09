"""Secrets in profiles by reference alone, and which source of a value wins over which."""

from pathlib import Path

import pytest

from comfyline.config import environment
from comfyline.config.load import find_token, ledger_url, named_blocks, resolve
from comfyline.config.settings import BlockOutOfReach, Secret
from comfyline.errors import InputInvalid, TokenRejected, UsageError
from tests.settings.conftest import LOCAL, REMOTE, STACK, Write

HOME = Path("/home")
IN_BLOCKS = (
    REMOTE.replace("api.example", "api.example, token_block: rc-token") + "ledger: {block: db}\n"
)


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
        "{}",
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


def test_a_url_without_a_password_may_stand_in_yaml(profile: Write) -> None:
    for url in ("sqlite:///a.db", "postgresql://me@host:5432/db?sslmode=require"):
        assert ledger_url(profile(f"{REMOTE}ledger: {url}\n"), {}, HOME) == url


def test_the_ledgers_url_may_be_kept_in_a_variable(profile: Write) -> None:
    mine = profile(f"{REMOTE}ledger: {{env: MY_LEDGER}}\n")

    assert (
        ledger_url(mine, {"MY_LEDGER": " postgresql://u:p@h/d\n"}, HOME) == "postgresql://u:p@h/d"
    )
    with pytest.raises(InputInvalid, match="variable MY_LEDGER, which is not set; export MY_LEDG"):
        ledger_url(mine, {"MY_LEDGER": " "}, HOME)
    with pytest.raises(InputInvalid, match="MY_LEDGER: this is not an SQLAlchemy URL") as caught:
        ledger_url(mine, {"MY_LEDGER": "SECRET"}, HOME)
    assert "SECRET" not in str(caught.value)


def test_secrets_may_be_kept_in_blocks(profile: Write, tmp_path: Path) -> None:
    mine = profile(IN_BLOCKS)
    blocks = {"rc-token": Secret(" my-token\n"), "db": Secret("postgresql://u:SECRET@h/d")}

    settings = resolve("mine", mine, {"RUNCOMFY_API_TOKEN": "other"}, tmp_path, STACK, blocks)

    assert named_blocks(mine, {}) == ("rc-token", "db")
    assert settings.runcomfy.token.value == "my-token"
    assert settings.ledger_url.value == "postgresql://u:SECRET@h/d"
    assert "SECRET" not in repr(settings)


def test_only_the_blocks_that_are_needed_are_named(profile: Write) -> None:
    mine = profile(IN_BLOCKS)

    assert named_blocks(mine, {"COMFYLINE_LEDGER_URL": "sqlite:///a"}) == ("rc-token",)
    assert named_blocks(mine, {"RUNCOMFY_BASE_URL": "local:sandbox"}) == ("db",)
    assert named_blocks(profile(LOCAL), {}) == ()


@pytest.mark.parametrize("held", ["", " \n", "Bearer SECRET", "SECRET\nx"])
def test_what_is_no_token_in_a_block_is_told_and_not_shown(held: str, profile: Write) -> None:
    with pytest.raises(TokenRejected, match="What the Prefect block `rc-token` holds is") as caught:
        find_token(profile(IN_BLOCKS), {}, {"rc-token": Secret(held)})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("written", ["Rc-Token", "rc_token", "", "my token", "-a", "SECRET/x"])
def test_what_is_no_name_of_a_block_is_told_and_not_shown(written: str, profile: Write) -> None:
    text = REMOTE.replace("api.example", f'api.example, token_block: "{written}"')
    with pytest.raises(InputInvalid, match="never the secret itself") as caught:
        profile(text)
    assert "SECRET" not in str(caught.value)


def test_two_places_for_one_token_are_a_question(profile: Write) -> None:
    both = "api.example, token_block: b, token_env: MY_TOKEN"
    with pytest.raises(InputInvalid, match="one place for the token") as caught:
        profile(REMOTE.replace("api.example", both))
    assert "takes its `token_env` away with null" in str(caught.value)


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and an environment that name nothing."""
    for name in ("RUNCOMFY_API_TOKEN", "RUNCOMFY_TOKEN", "RUNCOMFY_BASE_URL", "COMFYLINE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("COMFYLINE_LEDGER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("at_home")
async def test_blocks_are_read_where_there_is_a_server_and_asked_for_by_name(
    profile: Write,
) -> None:
    profile(IN_BLOCKS)
    asked = []

    async def read(name: str) -> str:
        asked.append(name)
        return {"rc-token": "my-token", "db": "sqlite:///b.db"}[name]

    settings = await environment.prepare("mine", print, read)

    assert asked == ["rc-token", "db"]
    assert settings.runcomfy.token.value == "my-token"
    assert settings.ledger_url.value == "sqlite:///b.db"


@pytest.mark.usefixtures("at_home")
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


def test_a_profile_extends_another_one(at_home: Path, profile: Write) -> None:
    (at_home / "base.yaml").write_text(
        REMOTE.replace("api.example", "api.example, token_env: OTHER, in_flight: 8, patience: 9s")
    )

    runcomfy = profile(
        "extends: base.yaml\nruncomfy: {in_flight: 4, token_env: null, token_block: mine}\n"
    ).runcomfy

    assert (runcomfy.in_flight, runcomfy.patience) == (4, 9.0)
    assert (runcomfy.token_env, runcomfy.token_block) == ("RUNCOMFY_API_TOKEN", "mine")


def test_a_mistake_in_the_base_of_a_profile_is_told_there(at_home: Path, profile: Write) -> None:
    (at_home / "base.yaml").write_text(f"{REMOTE}ledger: postgresql://u:SECRET@h/d\n")
    with pytest.raises(InputInvalid, match=r"^base\.yaml:3:1: .*holds a password") as caught:
        profile("extends: base.yaml\nruncomfy: {in_flight: 4}\n")
    assert "SECRET" not in str(caught.value)


TOKEN = {"RUNCOMFY_API_TOKEN": "t"}


@pytest.mark.parametrize(
    ("mine", "base", "environ", "expected"),
    [
        ("{}", "", {}, ("https://api.example", None, "sqlite:///")),
        ("{}", "ledger: sqlite:///base.db", {}, ("https://api.example", None, "sqlite:///base.db")),
        (
            "ledger: sqlite:///mine.db",
            "ledger: sqlite:///base.db",
            {"AWS_ENDPOINT_URL": "https://general.example"},
            ("https://api.example", "https://general.example", "sqlite:///mine.db"),
        ),
        (
            "storage: {endpoint_url: https://mine.example}",
            "",
            {"AWS_ENDPOINT_URL_S3": "https://env.example", "COMFYLINE_LEDGER_URL": "sqlite:///e"},
            ("https://api.example", "https://mine.example", "sqlite:///e"),
        ),
        (
            "{runcomfy: {base_url: https://mine.example}}",
            "ledger: {env: KEPT}",
            {"AWS_ENDPOINT_URL_S3": "https://s3.example", "AWS_ENDPOINT_URL": "https://x.example"}
            | {"KEPT": "sqlite:///kept.db"},
            ("https://mine.example", "https://s3.example", "sqlite:///kept.db"),
        ),
        (
            "{runcomfy: {base_url: https://mine.example}, ledger: {env: KEPT}}",
            "",
            {"RUNCOMFY_BASE_URL": "https://env.example", "COMFYLINE_LEDGER_URL": "sqlite:///e"},
            ("https://env.example", None, "sqlite:///e"),
        ),
    ],
)
def test_the_environment_wins_over_the_profile_and_the_profile_over_its_base(
    mine: str,
    base: str,
    environ: dict[str, str],
    expected: tuple[str, str | None, str],
    at_home: Path,
    profile: Write,
) -> None:
    (at_home / "base.yaml").write_text(f"{REMOTE}{base}\n")
    keys = mine.removeprefix("{").removesuffix("}") if mine.startswith("{") else mine
    read = profile(f"{{extends: base.yaml, {keys}}}\n")

    settings = resolve("mine", read, environ | TOKEN, at_home, STACK)

    assert settings.runcomfy.base_url == expected[0]
    assert settings.storage.endpoint_url == expected[1]
    assert settings.ledger_url.value.startswith(expected[2])
