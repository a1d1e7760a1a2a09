"""A whole site: three workers share a run, one of them is killed, and the server restarts."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from comfyline.job import JobState
from comfyline.ledger.attempts import Attempt
from comfyline.services import open_ledger
from comfyline.stack.home import make_credentials
from comfyline.stack.ports import remember_port
from comfyline.stack.process import read_record
from comfyline.stack.services import SANDBOX_TOKEN, basic_auth, origin
from deploy.local import DATA, HERE, Site
from tests.conftest import ROOT, free_port, shared_folder
from tests.forking import clean_environment
from tests.money import discrepancies

pytestmark = pytest.mark.production

WORKERS = ("worker-1", "worker-2", "worker-3")
JOBS, SHARD, IN_FLIGHT = 300, 50, 12
PIPELINE = f"""\
name: cluster
source: {{items: [{", ".join(f"{{name: n{number}}}" for number in range(JOBS))}]}}
steps:
  card:
    model: google/nano-banana-2-lite/text-to-image
    input: {{prompt: "Card {{{{ item.name }}}}", aspect_ratio: "21:9"}}
output: {{to: "s3://comfyline/cluster", name: "{{{{ item_name }}}}.{{{{ ext }}}}"}}
limits: {{shard: {SHARD}}}
"""
PROFILE = f"""\
extends: configs/profiles/site.yaml
runcomfy: {{base_url: SANDBOX, in_flight: {IN_FLIGHT}, submits_per_second: 100}}
"""


class Cluster:
    """A site in a folder, and the project that is deployed to it."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "site")
        self.project = folder / "project"
        self.environment = clean_environment() | {
            "SANDBOX_SLOTS": str(2 * IN_FLIGHT),
            "SANDBOX_SPEED": "1",
            "SANDBOX_PIXELS": "64",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "RUNCOMFY_API_TOKEN": SANDBOX_TOKEN,
        }

    def local(self, *arguments: str) -> str:
        """One command of deploy/local.sh; what it says."""
        ended = subprocess.run(
            [HERE / "local.sh", arguments[0], self.site.folder, *arguments[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def up(self) -> None:
        self.local("up", "--workers", "3", "--apart", "--project", str(self.project))

    def prefect(self, method: str, path: str, **more: Any) -> Any:
        auth = basic_auth(self.site.secret("prefect-auth"))
        url = f"{self.site.client()['PREFECT_API_URL']}/{path}"
        answer = httpx.request(method, url, auth=auth, trust_env=False, timeout=60, **more)
        return answer.raise_for_status().json()

    def state(self, run_id: str) -> dict[str, Any]:
        """A flow run's state; nothing while the server is away."""
        try:
            found: dict[str, Any] = self.prefect("GET", f"flow_runs/{run_id}")["state"]
        except httpx.HTTPError:
            return {}
        return found

    def accepted(self) -> list[dict[str, Any]]:
        """Every request that the sandbox has accepted."""
        url = f"{origin(self.site.port('sandbox'))}/sandbox/account"
        rows: list[dict[str, Any]] = httpx.get(url, trust_env=False, timeout=60).json()["requests"]
        return rows

    def attempts(self) -> list[Attempt]:
        ledger = open_ledger(self.site.secret("ledger-url"), None, reading=True)
        try:
            return list(asyncio.run(ledger.list()))
        finally:
            ledger.close()

    def begin(self) -> str:
        """Starts the pipeline's deployment; the id of its run."""
        deployment = self.prefect("GET", "deployments/name/pipeline/pipeline")["id"]
        given = {"parameters": {"path": "cluster.yaml"}}
        path = f"deployments/{deployment}/create_flow_run"
        return str(self.prefect("POST", path, json=given)["id"])

    def busy(self) -> list[str]:
        """The workers that have a flow run."""
        return [name for name in WORKERS if self.working_on(name)]

    def pid(self, name: str) -> int:
        record = read_record(self.site.layout.record(name))
        assert record
        return record.pid

    def family(self, worker: str) -> list[psutil.Process]:
        """A worker's process, and those of its flow runs."""
        process = psutil.Process(self.pid(worker))
        return [process, *process.children(recursive=True)]

    def working_on(self, worker: str) -> set[str]:
        """The flow runs that are processes of a worker."""
        runs = set()
        for process in self.family(worker):
            with suppress(psutil.Error):  # it has ended meanwhile
                runs.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        return runs - {""}

    def kill(self, worker: str) -> None:
        """Kills a worker and its flow runs, at a moment in which none of them is submitting.

        What a death in the middle of a POST leaves behind is in doubt, and waits for a person:
        that is what tests/crash is about.
        """

        def killed_at_rest() -> bool:
            family = self.family(worker)
            send(signal.SIGSTOP, family)
            time.sleep(0.5)  # what they have sent to the ledger is written there
            pids = {str(one.pid) for one in family}
            owners = [one.owner for one in self.attempts() if one.state is JobState.SUBMITTING]
            submit = pids & {str(one).partition("/")[0].rpartition(":")[2] for one in owners}
            send(signal.SIGCONT if submit else signal.SIGKILL, family)
            return not submit

        self.until(killed_at_rest)

    def until(self, condition: Callable[[], Any], seconds: float = 240) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not in time; logs in {self.site.layout.home}/logs"
            time.sleep(0.25)
        return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Not in pytest's own folder, which is closed to the user that PostgreSQL runs as.
    cluster = Cluster(shared_folder() / "cluster")
    shutil.copytree(ROOT / "configs", cluster.project / "configs")
    for name in ("flows", "tasks"):
        (cluster.project / name).symlink_to(ROOT / name)
    deployments = (ROOT / "prefect.yaml").read_text()
    deployments, found = re.subn(r"(profile: (?:&profile )?)sandbox", r"\1cluster", deployments)
    assert found
    # A reconcile in the middle would take over what the killed worker has left.
    deployments = deployments.replace("active: true", "active: false")
    (cluster.project / "prefect.yaml").write_text(deployments)
    (cluster.project / "cluster.yaml").write_text(PIPELINE)
    # Where they will be, and with which keys, is settled before the first start.
    site = cluster.site
    for name in ("api-1", *DATA, *WORKERS):
        remember_port(site.layout.ports, name, free_port())
    keys = make_credentials(site.layout.credentials)
    profile = PROFILE.replace("SANDBOX", origin(site.port("sandbox")))
    (cluster.project / "configs/profiles/cluster.yaml").write_text(profile)
    cluster.environment |= {
        "AWS_ENDPOINT_URL_S3": origin(site.port("storage")),
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
    }
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.local("down")
    assert [one for one in psutil.process_iter() if belongs_to(one, site.folder)] == []
    secrets = [*site.hidden(), keys.secret_access_key, SANDBOX_TOKEN]
    logs = [path.read_text(errors="replace") for path in site.folder.rglob("*.log")]
    assert len(logs) > len(DATA)
    assert not [secret for secret in secrets for log in logs if secret in log]


def send(number: int, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started for a site, by its command or its environment."""
    try:
        return str(folder) in f"{process.cmdline()} {process.environ()}"
    except psutil.Error:
        return False


def most_in_flight(rows: list[dict[str, Any]]) -> int:
    """The most requests that were unfinished at one moment, by the sandbox's own times."""
    moments = [(row["created_at"], 1) for row in rows] + [(row["finished_at"], -1) for row in rows]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def test_a_killed_worker_and_a_restarted_server_cost_nothing(cluster: Cluster) -> None:
    run_id = cluster.begin()
    cluster.until(lambda: len([row for row in cluster.accepted() if row["charge_usd"]]) > JOBS // 3)
    cluster.kill(next(name for name in cluster.busy() if run_id not in cluster.working_on(name)))
    cluster.local("down", "api-1")
    assert cluster.state(run_id) == {}
    cluster.up()
    state = cluster.until(
        lambda: (now := cluster.state(run_id)).get("type") not in {None, "RUNNING"} and now
    )

    assert (state["type"], state["message"]) == ("COMPLETED", f"{JOBS} jobs: {JOBS} persisted")
    charges = cluster.accepted()
    assert all(row["charge_usd"] for row in charges)
    assert sorted(row["input"]["prompt"] for row in charges) == sorted(
        f"Card n{number}" for number in range(JOBS)
    )
    assert most_in_flight(charges) <= IN_FLIGHT
    [summary] = cluster.site.folder.glob(f"worker-*/runs/{run_id}/summary.json")
    told = json.loads(summary.read_text())
    assert (told["persisted"], told["submitted"], told["reused"]) == (JOBS, JOBS, 0)
    assert told["cost_usd"] == pytest.approx(sum(row["charge_usd"] for row in charges))
    attempts = cluster.attempts()
    assert discrepancies({"sandbox": charges}, attempts) == []
    for attempt in attempts:
        [output] = attempt.outputs
        stored = cluster.site.layout.storage / output.uri.removeprefix("s3://")
        made = f"{origin(cluster.site.port('sandbox'))}/cdn/{attempt.request_id}/0{stored.suffix}"
        assert stored.read_bytes() == httpx.get(made, trust_env=False).content

    # A worker that is killed alone leaves its flow run behind, and `down` ends that as well.
    cluster.begin()
    [worker, *_] = cluster.until(cluster.busy)
    psutil.Process(cluster.pid(worker)).kill()
