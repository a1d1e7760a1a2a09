"""Profiles as files in a working directory, and settings made from them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from comfyline.config.load import LoadedProfile, read_profile
from comfyline.config.settings import Settings
from comfyline.stack.home import StorageCredentials
from comfyline.stack.stack import StackAddresses

STACK = StackAddresses(
    sandbox_url="http://127.0.0.1:4273",
    sandbox_token="the-sandbox-token",
    storage_endpoint="http://127.0.0.1:4274",
    storage_credentials=StorageCredentials("the-storage-key", "the-storage-secret"),
)
REMOTE = "runcomfy: {base_url: https://api.example}\nstorage: {uploads: s3://b/up}\n"
LOCAL = (
    "runcomfy: {base_url: local:sandbox}\n"
    "storage: {uploads: s3://b/up, endpoint_url: local:storage}\n"
)
TOKEN = {"RUNCOMFY_API_TOKEN": "my-token"}

Write = Callable[..., LoadedProfile]
Resolve = Callable[..., Settings]


@pytest.fixture
def profile(tmp_path: Path) -> Write:
    """Writes a profile and reads it, in an environment."""

    def write(text: str, environ: Mapping[str, str] = {}) -> LoadedProfile:
        file = tmp_path / "configs" / "profiles" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return read_profile("mine", environ, tmp_path)

    return write


@pytest.fixture
def resolved(profile: Write) -> Resolve:
    """The settings of a profile in an environment."""

    def make(
        text: str, environ: Mapping[str, str] = TOKEN, stack: StackAddresses = STACK
    ) -> Settings:
        return profile(text, environ).settings(stack)

    return make


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has none of our variables, in an empty working directory."""
    for variable in (
        "COMFYLINE_PREFECT_PORT",
        "COMFYLINE_STORAGE_PORT",
        "COMFYLINE_SANDBOX_PORT",
        "COMFYLINE_HOME",
        "COMFYLINE_LEDGER_URL",
        "RUNCOMFY_API_TOKEN",
        "RUNCOMFY_TOKEN",
        "RUNCOMFY_BASE_URL",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
