"""The one place that builds client, ledger and storage from `Settings`, once a process."""

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiolimiter import AsyncLimiter
from sqlalchemy import make_url

from comfyline.catalogue import Catalogue
from comfyline.ledger.ledger import Ledger
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.downloads import Downloads
from comfyline.runcomfy.outage import Outage
from comfyline.runcomfy.poller import Poller
from comfyline.runcomfy.polling import next_poll
from comfyline.settings import Secret, Settings
from comfyline.storage.bucket import Bucket
from comfyline.storage.origins import Origins
from comfyline.storage.places import Places
from comfyline.storage.uploads import Uploads


class Services:
    """What the stages work with. No dataclass: Prefect looks into those, parameter by parameter."""

    def __init__(
        self,
        *,
        settings: Settings,
        client: RuncomfyClient,
        downloads: Downloads,
        poller: Poller,
        ledger: Ledger,
        bucket: Bucket,
    ) -> None:
        self.settings = settings
        self.client = client
        self.downloads = downloads
        self.poller = poller
        self.ledger = ledger
        self.places = Places(bucket)
        self.origins = Origins(bucket)
        self.uploads = Uploads(bucket, settings.storage.uploads, settings.storage.url_expires)
        self.catalogue = Catalogue(settings.model_directories, client)
        self.thumbnails = settings.home / "thumbnails"
        self.submits = submit_limiter(settings.runcomfy.submits_per_second)

    def work_directory(self, attempt_id: int) -> Path:
        """Where an attempt's outputs lie between fetch and persist, on this machine."""
        return self.settings.home / "work" / str(attempt_id)


def submit_limiter(per_second: float) -> AsyncLimiter:
    """Lets so many submissions through in a second; below one, each has to wait for its turn."""
    return AsyncLimiter(max(1, per_second), max(1, 1 / per_second))


def now() -> datetime:
    """The wall clock, aware and in UTC."""
    return datetime.now(UTC)


def open_ledger(url: str, *, reading: bool = False) -> Ledger:
    """The ledger at a SQLAlchemy URL; this process is its owner's name.

    With `reading`, a SQLite file that is not there is not made: the ledger is an empty one.
    """
    file = make_url(url).database if make_url(url).get_backend_name() == "sqlite" else None
    if reading and file and not Path(file).exists():
        url = "sqlite://"
    return Ledger(url, f"{socket.gethostname()}:{os.getpid()}", now)


@asynccontextmanager
async def open_services(settings: Settings, *, reading: bool = False) -> AsyncIterator[Services]:
    """Opens everything a run needs, and closes it in the opposite order.

    With `reading`, no ledger is made where there is none.
    """
    runcomfy, storage = settings.runcomfy, settings.storage
    async with AsyncExitStack() as stack:
        outage = Outage(runcomfy.patience, time.monotonic)
        client = await stack.enter_async_context(
            RuncomfyClient(runcomfy.base_url, runcomfy.token.value, outage)
        )
        downloads = await stack.enter_async_context(
            Downloads(runcomfy.download_hosts, runcomfy.base_url)
        )
        bucket = await stack.enter_async_context(
            Bucket(storage.endpoint_url, _value(storage.key), _value(storage.secret))
        )
        poller = await stack.enter_async_context(Poller(client.status, next_poll, time.monotonic))
        ledger = open_ledger(settings.ledger_url.value, reading=reading)
        stack.callback(ledger.close)
        yield Services(
            settings=settings,
            client=client,
            downloads=downloads,
            poller=poller,
            ledger=ledger,
            bucket=bucket,
        )


def _value(secret: Secret | None) -> str | None:
    return secret.value if secret else None
