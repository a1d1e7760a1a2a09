"""Profiles as files in a working directory, and settings made from them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from comfyline.config.load import read_profile, resolve
from comfyline.config.profile import ProfileDocument
from comfyline.config.settings import LocalStack, Secret, Settings

STACK = LocalStack(
    sandbox_url="http://127.0.0.1:4273",
    sandbox_token=Secret("the-sandbox-token"),
    storage_endpoint="http://127.0.0.1:4274",
    storage_key=Secret("the-storage-key"),
    storage_secret=Secret("the-storage-secret"),
)
REMOTE = "runcomfy: {base_url: https://api.example}\nstorage: {uploads: s3://b/up}\n"
LOCAL = (
    "runcomfy: {base_url: local:sandbox}\n"
    "storage: {uploads: s3://b/up, endpoint_url: local:storage}\n"
)

Write = Callable[[str], ProfileDocument]
Resolve = Callable[..., Settings]


@pytest.fixture
def profile(tmp_path: Path) -> Write:
    """Writes a profile and reads it."""

    def write(text: str) -> ProfileDocument:
        file = tmp_path / "configs" / "profiles" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return read_profile("mine", tmp_path)

    return write


@pytest.fixture
def resolved(tmp_path: Path, profile: Write) -> Resolve:
    """The settings of a profile in an environment."""

    def make(
        text: str, environ: Mapping[str, str] | None = None, stack: LocalStack = STACK
    ) -> Settings:
        given = {"RUNCOMFY_API_TOKEN": "my-token"} if environ is None else environ
        return resolve("mine", profile(text), given, tmp_path, stack)

    return make
