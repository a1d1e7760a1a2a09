"""Profiles by name and by file: found where they should be, and never another one."""

from pathlib import Path

import pytest

from comfyline.config import files as config_files
from comfyline.config.files import config_directories, model_directories
from comfyline.config.load import read_profile
from comfyline.errors import InputInvalid, UsageError
from tests.settings.conftest import REMOTE, Write


def folder(path: Path, *profiles: str) -> Path:
    (path / "profiles").mkdir(parents=True)
    for name in profiles:
        (path / "profiles" / f"{name}.yaml").write_text(REMOTE.replace("api", path.parent.name))
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a checkout, with the configuration beside it."""
    (tmp_path / "repository" / "comfyline").mkdir(parents=True)
    folder(tmp_path / "repository" / "configs", "sandbox", "production")
    monkeypatch.setattr(config_files, "_PACKAGE", tmp_path / "repository" / "comfyline")
    return tmp_path / "repository"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, with somebody else's `configs` beside it."""
    folder(tmp_path / "site" / "configs", "foreign")
    folder(tmp_path / "site" / "comfyline" / "defaults", "sandbox", "production")
    monkeypatch.setattr(config_files, "_PACKAGE", tmp_path / "site" / "comfyline")
    return tmp_path / "site" / "comfyline"


def test_in_a_checkout_its_own_folder_serves_and_counts_once(checkout: Path):
    assert config_directories(checkout) == (checkout / "configs",)
    assert model_directories(checkout) == (checkout / "configs" / "models",)


def test_the_working_directory_wins_over_what_is_built_in(checkout: Path, tmp_path: Path):
    mine = folder(tmp_path / "mine" / "configs", "sandbox")
    assert config_directories(tmp_path / "mine") == (mine, checkout / "configs")
    assert "mine" in read_profile("sandbox", tmp_path / "mine").runcomfy.base_url
    assert "repository" in read_profile("production", tmp_path / "mine").runcomfy.base_url


def test_an_installed_package_brings_its_own_and_reads_nobody_elses(
    installed: Path, tmp_path: Path
):
    assert config_directories(tmp_path) == (installed / "defaults",)
    with pytest.raises(UsageError):
        read_profile("foreign", tmp_path)


def test_without_any_configuration_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(config_files, "_PACKAGE", tmp_path / "bare" / "comfyline")
    assert config_directories(tmp_path) == ()
    with pytest.raises(UsageError, match="There are: none"):
        read_profile("sandbox", tmp_path)


@pytest.mark.parametrize("name", ["prodution", "PRODUCTION", "staging", "", "sandbox.yml/", "."])
def test_an_unknown_profile_is_never_replaced_by_another(name: str, checkout: Path, tmp_path: Path):
    with pytest.raises((UsageError, InputInvalid)):
        read_profile(name, tmp_path)
    assert checkout


def test_an_unknown_profile_is_told_with_the_known_ones_and_the_nearest(
    checkout: Path, tmp_path: Path
):
    with pytest.raises(UsageError) as error:
        read_profile("prodution", tmp_path)
    assert str(error.value) == (
        "There is no profile 'prodution' in configs/profiles/. "
        "did you mean `production`? There are: production, sandbox"
    )
    assert error.value.exit_code == 64
    with pytest.raises(UsageError, match=r"configs/profiles/\. There are: production, sandbox$"):
        read_profile("xyz", tmp_path)
    assert checkout


def test_a_profile_is_also_a_file(tmp_path: Path):
    (tmp_path / "own.yaml").write_text(REMOTE)
    assert read_profile(str(tmp_path / "own.yaml"), tmp_path).storage.uploads == "s3://b/up"
    with pytest.raises(InputInvalid, match=r"o\.yaml: there is no such file.*own\.yaml"):
        read_profile(str(tmp_path / "o.yaml"), tmp_path)


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
    assert profile(text).runcomfy.submits_per_second == 3
    assert profile(text).runcomfy.patience == 20
