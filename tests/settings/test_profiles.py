"""Profiles by name and by file: found where they should be, and never another one."""

from pathlib import Path

import pytest

from comfyline.config.load import read_profile
from comfyline.config.profile import config_directories, load_profile
from comfyline.errors import InputInvalid, UsageError
from tests.settings.conftest import REMOTE, Resolve, Write

BARE = "runcomfy: {base_url: https://api.example}\nstorage:\n  uploads: s3://b/up/\n"
OPTIONS = (
    "  addressing_style: virtual\n  ca_bundle: ~/company.pem\n  aws_profile: studio\n"
    "  encryption: aws:kms\n  kms_key: key-7\n  storage_class: STANDARD_IA\n"
)


def folder(path: Path, *profiles: str) -> Path:
    (path / "profiles").mkdir(parents=True)
    for name in profiles:
        (path / "profiles" / f"{name}.yaml").write_text(REMOTE.replace("api", path.parent.name))
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout, with the configuration beside it."""
    folder(tmp_path / "repository" / "configs", "sandbox", "production")
    return tmp_path / "repository" / "comfyline"


def test_the_working_directory_wins_over_what_is_built_in(package: Path, tmp_path: Path) -> None:
    checkout = package.parent
    mine = folder(tmp_path / "mine" / "configs", "sandbox")
    directories = config_directories(tmp_path / "mine", package)

    assert config_directories(checkout, package) == (checkout / "configs",)
    assert directories == (mine, checkout / "configs")
    assert "mine" in load_profile("sandbox", directories).runcomfy.base_url
    assert "repository" in load_profile("production", directories).runcomfy.base_url


def test_an_installed_package_brings_its_own_and_reads_nobody_elses(tmp_path: Path) -> None:
    folder(tmp_path / "site" / "configs", "foreign")
    own = folder(tmp_path / "site" / "comfyline" / "defaults", "sandbox", "production")

    assert config_directories(tmp_path, tmp_path / "site" / "comfyline") == (own,)
    with pytest.raises(UsageError):
        load_profile("foreign", (own,))
    with pytest.raises(UsageError, match="There are: none"):
        load_profile("sandbox", config_directories(tmp_path, tmp_path / "bare" / "comfyline"))


@pytest.mark.parametrize("name", ["prodution", "PRODUCTION", "staging", "", "sandbox.yml/", "."])
def test_an_unknown_profile_is_never_replaced_by_another(name: str, package: Path) -> None:
    with pytest.raises((UsageError, InputInvalid)):
        load_profile(name, (package.parent / "configs",))


def test_an_unknown_profile_is_told_with_the_known_ones_and_the_nearest(package: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_profile("prodution", (package.parent / "configs",))
    assert str(error.value) == (
        "There is no profile 'prodution' in configs/profiles/. "
        "did you mean `production`? There are: production, sandbox"
    )
    assert error.value.exit_code == 64


def test_a_profile_is_also_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(REMOTE)
    found = read_profile(str(tmp_path / "own.yaml"), {}, tmp_path)
    assert found.document.storage.uploads == "s3://b/up"
    with pytest.raises(InputInvalid, match=r"o\.yaml: there is no such file.*own\.yaml"):
        read_profile(str(tmp_path / "o.yaml"), {}, tmp_path)


def test_every_mistake_of_a_profile_is_told_at_once_with_its_place(profile: Write, tmp_path: Path):
    text = (
        "runcomfy:\n  base_ulr: https://api.example\n  in_flight: 0\n  submits_per_second: .5\n"
        "storage:\n  uploads: my-bucket\n  url_expires: 8d\nledgre: null\n"
    )
    with pytest.raises(InputInvalid) as error:
        profile(text)
    file = tmp_path / "configs" / "profiles" / "mine.yaml"
    told = {problem.where: str(problem) for problem in error.value.problems}
    assert set(told) >= {f"{file}:{place}" for place in ("2:3", "3:3", "6:3", "7:3", "8:1")}
    assert "did you mean `base_url`?" in told[f"{file}:2:3"]
    assert "did you mean `ledger`?" in told[f"{file}:8:1"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://api.example", "https://api.example, in_flight: true"),
        ("https://api.example", "https://api.example, in_flight: 1.5"),
        ("https://api.example", 'https://api.example, in_flight: "3"'),
        ("https://api.example", "https://api.example, submits_per_second: true"),
        ("https://api.example", "https://api.example, submits_per_second: 0"),
        ("https://api.example", "https://api.example, download_hosts: '*'"),
        ("https://api.example", "https://api.example, patience: soon"),
        ("https://api.example", "null"),
        ("s3://b/up", "s3://"),
        ("s3://b/up", "https://b/up"),
        ("s3://b/up", "s3://b/up, url_expires: 0"),
    ],
)
def test_a_wrong_value_is_a_mistake_and_not_a_guess(old: str, new: str, profile: Write):
    with pytest.raises(InputInvalid, match=r"mine\.yaml:[12]:"):
        profile(REMOTE.replace(old, new))


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
    ],
)
def test_what_no_storage_can_do_is_told(profile: Write, wrong: str, told: str) -> None:
    with pytest.raises(InputInvalid, match=told):
        profile(BARE + wrong)
