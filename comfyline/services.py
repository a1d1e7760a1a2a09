"""The one place that builds client, ledger and storage from `Settings`, once a process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url

from comfyline.config.account import LOCAL_SANDBOX, Account, acting_for
from comfyline.config.settings import Settings, StorageSettings
from comfyline.errors import ComfylineError
from comfyline.files import this_process
from comfyline.ledger.journal import JOURNAL, Journal, place_of
from comfyline.ledger.ledger import Ledger
from comfyline.ledger.slot_queue import Slots
from comfyline.models.catalogue import CACHED_MODELS, Catalogue, ModelCache
from comfyline.progress import Note, tell
from comfyline.redact import bare_origin
from comfyline.runcomfy.client import RuncomfyClient
from comfyline.runcomfy.download import Downloads
from comfyline.runcomfy.poll import Poller
from comfyline.runcomfy.retry import RetryBudget
from comfyline.sandbox.store import request_ids
from comfyline.stack.home import Layout, private_folder
from comfyline.storage.fingerprints import KNOWN_FILES
from comfyline.storage.inputs import Inputs
from comfyline.storage.places import Places
from comfyline.storage.s3 import Bucket
from comfyline.storage.uploads import CONVERTED, Uploads
from comfyline.storage.url_guard import is_inside


class Services:
    """What the stages work with. No dataclass: Prefect looks into those, parameter by parameter.

    `now` is the ledger's clock: whatever is as old as the ledger says is measured by it. With
    `is_reading` nothing is to be written. `began_empty`: when it was opened, the ledger had nothing
    of this account.
    """

    def __init__(self, settings: Settings, *, reading: bool, unchecked: bool) -> None:
        runcomfy, storage, home = settings.runcomfy, settings.storage, settings.home
        self.settings = settings
        self.is_reading = reading
        self.client = _client(settings)
        self.downloads = Downloads(runcomfy.download_hosts, runcomfy.base_url)
        self.poller = Poller(self.client.status, runcomfy.patience, runcomfy.polling)
        self.catalogue = Catalogue(
            settings.model_directories,
            self.client,
            ModelCache(home / CACHED_MODELS),
            reading=reading,
            unchecked=unchecked,
        )
        self.bucket = self.signer = Bucket(storage)
        if public := storage.public_endpoint_url:
            self.signer = Bucket(replace(storage, endpoint_url=public))
        self.places = Places(self.bucket)
        private_hosts = is_inside(urlsplit(runcomfy.base_url).hostname or "")
        self.inputs = Inputs(self.bucket, home / KNOWN_FILES, private_hosts=private_hosts)
        self.uploads = Uploads(
            self.bucket,
            storage,
            self.inputs,
            home / CONVERTED,
            signer=self.signer,
            runcomfy_url=runcomfy.base_url,
        )
        self.thumbnails = home / "thumbnails"
        self.journal = open_journal(home, settings.ledger_url.get_secret_value())
        self.ledger = open_ledger(
            settings.ledger_url.get_secret_value(), runcomfy.account, reading=reading
        )
        self.slots = Slots(self.ledger, self.client, self.work, runcomfy.in_flight)
        self.now: Callable[[], datetime] = now
        self.ledger_id = ""
        self.began_empty = False

    @property
    def work(self) -> Path:
        """Where outputs lie between fetch and persist, on this machine: a folder a request."""
        return work_folder(self.settings.home)

    def work_directory(self, request_id: str) -> Path:
        """Return the folder of one request; its id is nobody else's, whichever the ledger."""
        return self.work / request_id


def _client(settings: Settings) -> RuncomfyClient:
    """Make a client whose calls share one retry budget, and say when they wait."""
    runcomfy = settings.runcomfy
    budget = RetryBudget(
        runcomfy.patience,
        time.monotonic,
        where=f"{bare_origin(runcomfy.base_url)}, profile {settings.profile}",
        say=lambda text: tell(Note(text)),
    )
    token, balance_url = runcomfy.token.get_secret_value(), runcomfy.balance_url
    return RuncomfyClient(runcomfy.base_url, token, budget, balance_url=balance_url)


def now() -> datetime:
    """Return the wall clock, aware and in UTC."""
    return datetime.now(UTC)


def day_of(moment: datetime) -> date:
    """Return the day that it is at that moment for the people of this machine."""
    return moment.astimezone().date()


def open_ledger(url: str, account: Account | None, *, reading: bool = False) -> Ledger:
    """Open the ledger at a SQLAlchemy URL, in which this process has a name of its own.

    It shows what `account` has, and all for None. With `reading`, a SQLite file that is not there
    is not made: the ledger is an empty one.
    """
    file = make_url(url).database if make_url(url).get_backend_name() == "sqlite" else None
    if reading and file and not Path(file).exists():
        url = "sqlite://"
    return Ledger(url, this_process(), account=account)


def open_journal(home: Path, ledger_url: str) -> Journal:
    """Open the journal of this machine, for a ledger at a SQLAlchemy URL."""
    return Journal(home / JOURNAL, place_of(ledger_url))


@asynccontextmanager
async def open_services(
    settings: Settings, *, reading: bool = False, unchecked: bool = False
) -> AsyncIterator[Services]:
    """Open everything a run needs, and close it in the opposite order.

    With `reading`, no ledger is made where there is none, and no model's schema is kept. With
    `unchecked`, a model whose schema is nowhere to be had is taken without one.
    """
    account = settings.runcomfy.account
    if not reading:
        _make_home(settings.home)
    async with AsyncExitStack() as stack:
        stack.enter_context(acting_for(account))
        services = Services(settings, reading=reading, unchecked=unchecked)
        ledger = services.ledger
        stack.callback(ledger.close)
        await stack.enter_async_context(services.client)
        await stack.enter_async_context(services.downloads)
        for bucket in {services.bucket, services.signer}:
            await stack.enter_async_context(bucket)
        if not reading:
            # From before requests had accounts, as long as its own memory tells which were its.
            sandbox = Account(LOCAL_SANDBOX, profile="sandbox")
            await ledger.adopt(sandbox, lambda: request_ids(Layout(settings.home).sandbox))
        await stack.enter_async_context(_holding(ledger))
        services.ledger_id = await ledger.identity()
        services.now = await ledger.clock()
        services.began_empty = await ledger.is_new_to(account)
        yield services


@asynccontextmanager
async def _holding(ledger: Ledger) -> AsyncIterator[None]:
    """Keep what this process works on in its hands, and give it up at the end."""
    keeping = asyncio.create_task(ledger.keep_locks())
    try:
        yield
    finally:
        keeping.cancel()
        # What cannot be given up lapses by itself.
        with suppress(ComfylineError):
            await ledger.release_all()


@asynccontextmanager
async def open_catalogue(settings: Settings) -> AsyncIterator[Catalogue]:
    """Open what the models are read from alone: no ledger, no storage."""
    _make_home(settings.home)
    async with _client(settings) as client:
        kept = ModelCache(settings.home / CACHED_MODELS)
        yield Catalogue(settings.model_directories, client, kept)


@asynccontextmanager
async def open_places(storage: StorageSettings) -> AsyncIterator[Places]:
    """Open the storage alone: no token, no RunComfy, no ledger."""
    async with Bucket(storage) as bucket:
        yield Places(bucket)


def _make_home(home: Path) -> None:
    """Make the home before anybody makes a folder in it, which would leave it open to all."""
    # Where nothing can be made, whoever has to write there says so.
    with suppress(OSError):
        private_folder(home)


def work_folder(home: Path) -> Path:
    """Return the folder under `home` of what is fetched and not stored yet."""
    return home / "work"
