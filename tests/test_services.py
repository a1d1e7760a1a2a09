"""What the services make of their settings."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from comfyline.config.settings import StorageSettings
from comfyline.ledger.ledger import Ledger
from comfyline.services import open_services
from tests.operations.conftest import settings


async def test_ages_are_by_the_clock_of_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    then = datetime(2026, 3, 1, 12, tzinfo=UTC)

    async def clock(_: Ledger) -> object:
        return lambda: then

    monkeypatch.setattr(Ledger, "clock", clock)
    none = StorageSettings("s3://none/uploads", "http://127.0.0.1:9", None, None, 60)
    async with open_services(settings(tmp_path, none)) as services:
        assert services.now() == then
