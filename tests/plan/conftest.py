"""Services over an empty ledger, and jobs of one model that need no other."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from comfyline.config.account import Account
from comfyline.config.settings import RuncomfySettings, Settings, StorageSettings
from comfyline.job import CheckedJob, Job, Placement
from comfyline.ledger.claims import Limits
from comfyline.plan.check import validate_job
from comfyline.plan.reuse import Preflight
from comfyline.run import CostLimits, Run
from comfyline.services import Services, open_services
from comfyline.stack.stack import StackAddresses

CAT = Path(__file__).parents[2] / "configs/samples/cat.jpg"
MODEL = "google/nano-banana/pro/edit"
PAID = Account("https://model-api.example", "team-a", profile="production")
LIMITS = Limits(in_flight=10_000)


@pytest.fixture
def settings(tmp_path: Path, storage: StackAddresses) -> Settings:
    keys = storage.storage_credentials
    assert keys is not None
    key, secret = SecretStr(keys.access_key_id), SecretStr(keys.secret_access_key)
    return Settings(
        profile="test",
        home=tmp_path / "home",
        model_directories=(Path(__file__).parents[2] / "configs/models",),
        runcomfy=RuncomfySettings("http://127.0.0.1:9", SecretStr("token"), (), 32, 5, 0, PAID),
        storage=StorageSettings(
            "s3://comfyline/uploads", storage.storage_endpoint, key, secret, 60
        ),
        ledger_url=SecretStr(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"),
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def job(folder: str, item: str = "cat", pipeline: str = "p", **inputs: Any) -> Job:
    return Job(
        pipeline=pipeline,
        item=item,
        step="edit",
        model_id=MODEL,
        inputs={"prompt": f"a {item}", "image_urls": [str(CAT)]} | inputs,
        placement=Placement(folder, "{{ item_name }}-{{ index }}.{{ ext }}", {"item_name": item}),
        source="p.yaml:5:3",
    )


def run(run_id: str = "second", *, refresh: bool = False, verify: bool = False) -> Run:
    return Run(
        id=run_id,
        pipeline="p",
        in_flight=4,
        timeout=60,
        costs=CostLimits(),
        refresh=refresh,
        verify=verify,
    )


async def checked(one: Job, services: Services) -> CheckedJob:
    return await validate_job(one, await services.catalogue.entry(one.model_id), services.inputs)


def counted(found: Preflight) -> tuple[int, int]:
    return len(found.there), len(found.to_make)
