"""Profiles by name and by file: found where they should be, and never another one."""

from pathlib import Path

import pytest

from comfyline.config.load import read_profile
from comfyline.config.profile import config_directories, load_profile
from comfyline.errors import InputInvalid, UsageError
from tests.settings.conftest import REMOTE, Resolve, Write

OPTIONS = (
    "  addressing_style: virtual\n  ca_bundle: ~/company.pem\n  aws_profile: studio\n"
    "  encryption: aws:kms\n  kms_key: key-7\n  storage_class: STANDARD_IA\n"
)
BARE = "runcomfy: {base_url: https://api.example}\nstorage:\n  uploads: s3://b/up/\n"


def folder(path: Path, *profiles: str) -> Path:
    (path / "profiles").mkdir(parents=True)
    for name in profiles:
        (path / "profiles" / f"{name}.yaml").write_text(REMOTE.replace("api", path.parent.name))
    return path


@pytest.fixture
def package(bare: Path) -> Path:
    """A package in a checkout, with the configuration beside it."""
    folder(bare / "repository" / "configs", "sandbox", "production")
    return bare / "repository" / "comfyline"


def test_the_working_directory_wins_over_what_is_built_in(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package.parent)
    assert config_directories(package) == (package.parent / "configs",)
    mine = folder(package.parent.parent / "mine" / "configs", "sandbox")
    monkeypatch.chdir(mine.parent)
    assert config_directories(package) == (mine, package.parent / "configs")
    assert "mine" in load_profile("sandbox", package).runcomfy.base_url
    assert "repository" in load_profile("production", package).runcomfy.base_url


def test_an_installed_package_brings_its_own_and_reads_nobody_elses(bare: Path) -> None:
    folder(bare / "site" / "configs", "foreign")
    own = folder(bare / "site" / "comfyline" / "defaults", "sandbox", "production")

    assert config_directories(bare / "site" / "comfyline") == (own,)
    with pytest.raises(UsageError):
        load_profile("foreign", bare / "site" / "comfyline")
    with pytest.raises(UsageError, match="There are: none"):
        load_profile("sandbox", bare / "empty" / "comfyline")


@pytest.mark.parametrize("name", ["prodution", "PRODUCTION", "staging", "", "sandbox.yml/", "."])
def test_an_unknown_profile_is_never_replaced_by_another(name: str, package: Path) -> None:
    with pytest.raises((UsageError, InputInvalid)) as error:
        load_profile(name, package)
    if name == "prodution":
        assert error.value.exit_code == 64
        assert str(error.value) == (
            "There is no profile 'prodution' in configs/profiles/. "
            "did you mean `production`? There are: production, sandbox"
        )


def test_a_profile_is_also_a_file(bare: Path) -> None:
    (bare / "own.yaml").write_text(REMOTE)
    assert read_profile(str(bare / "own.yaml")).document.storage.uploads == "s3://b/up"
    with pytest.raises(InputInvalid, match=r"o\.yaml: there is no such file.*own\.yaml"):
        read_profile(str(bare / "o.yaml"))


def test_every_mistake_of_a_profile_is_told_at_once_with_its_place(profile: Write, bare: Path):
    text = (
        "runcomfy:\n  base_ulr: https://api.example\n  in_flight: 0\n  submits_per_second: .5\n"
        "storage:\n  uploads: my-bucket\n  url_expires: 8d\nledgre: null\n"
    )
    with pytest.raises(InputInvalid) as error:
        profile(text)
    told = {problem.where: str(problem) for problem in error.value.problems}
    file = bare / "configs/profiles/mine.yaml"
    assert set(told) >= {f"{file}:{place}" for place in ("2:3", "3:3", "6:3", "7:3", "8:1")}
    assert "did you mean `base_url`?" in told[f"{file}:2:3"]
    assert "did you mean `ledger`?" in told[f"{file}:8:1"]


@pytest.mark.parametrize(
    "wrong",
    [
        "in_flight: true",
        "in_flight: 1.5",
        'in_flight: "3"',
        "submits_per_second: true",
        "submits_per_second: 0",
        "download_hosts: '*'",
        "patience: soon",
    ],
)
def test_a_wrong_value_is_a_mistake_and_not_a_guess(wrong: str, profile: Write):
    with pytest.raises(InputInvalid, match=r"mine\.yaml:1:"):
        profile(REMOTE.replace("https://api.example", f"https://api.example, {wrong}"))


def test_whole_numbers_are_numbers(profile: Write):
    text = REMOTE.replace("api.example", "api.example, submits_per_second: 3, patience: 20")
    runcomfy = profile(text).document.runcomfy
    assert (runcomfy.submits_per_second, runcomfy.patience) == (3, 20)


def test_each_option_of_the_storage_reaches_the_settings(resolved: Resolve) -> None:
    bare, storage = resolved(BARE).storage, resolved(BARE + OPTIONS).storage

    assert (bare.uploads, bare.addressing_style) == ("s3://b/up", "auto")
    assert (storage.addressing_style, storage.aws_profile) == ("virtual", "studio")
    assert storage.ca_bundle == str(Path("~/company.pem").expanduser())
    assert (storage.encryption, storage.kms_key) == ("aws:kms", "key-7")
    assert storage.storage_class == "STANDARD_IA"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("  kms_key: key-7\n", "encryption: aws:kms"),
        ("  encryption: AES256\n  kms_key: key-7\n", "encryption: aws:kms"),
        ("  encryption: rot13\n", "encryption"),
        ("  addressing_style: sideways\n", "addressing_style"),
        ("  storage_class: deep freeze\n", "storage_class"),
        ("  storage_klass: STANDARD\n", "storage_class"),
        ("  url_expires: 0\n", "url_expires"),
    ],
)
def test_what_no_storage_can_do_is_told(profile: Write, wrong: str, told: str) -> None:
    with pytest.raises(InputInvalid, match=told):
        profile(BARE + wrong)


def test_a_profile_extends_another_one_and_is_told_the_mistakes_of_that(
    bare: Path, profile: Write
) -> None:
    base = bare / "base.yaml"
    base.write_text(
        REMOTE.replace("api.example", "api.example, token_env: OTHER, in_flight: 8, patience: 9s")
    )

    runcomfy = profile(
        "extends: base.yaml\nruncomfy: {in_flight: 4, token_env: null, token_block: mine}\n"
    ).document.runcomfy

    assert (runcomfy.in_flight, runcomfy.patience) == (4, 9.0)
    assert (runcomfy.token_env, runcomfy.token_block) == ("RUNCOMFY_API_TOKEN", "mine")
    base.write_text(f"{REMOTE}ledger: postgresql://u:SECRET@h/d\n")
    with pytest.raises(InputInvalid, match=r"^base\.yaml:3:1: .*contains a password") as caught:
        profile("extends: base.yaml\nruncomfy: {in_flight: 4}\n")
    assert "SECRET" not in str(caught.value)
