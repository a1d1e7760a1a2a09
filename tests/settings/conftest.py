"""Profiles as files in a working directory, and settings made from them."""

import os
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


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has none of our variables, in an empty working directory."""
    for name in list(os.environ):
        if name.startswith(("COMFYLINE_", "RUNCOMFY_", "AWS_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def profile(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a profile and reads it, in an environment of these variables alone."""
    given: set[str] = set()

    def write(text: str, environ: Mapping[str, str] = {}) -> LoadedProfile:
        for name in given - environ.keys():
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        given.clear()
        given.update(environ)
        file = bare / "configs" / "profiles" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return read_profile("mine")

    return write


@pytest.fixture
def resolved(profile: Write) -> Resolve:
    """The settings of a profile in an environment."""

    def make(
        text: str, environ: Mapping[str, str] = TOKEN, stack: StackAddresses = STACK
    ) -> Settings:
        return profile(text, environ).settings(stack)

    return make
