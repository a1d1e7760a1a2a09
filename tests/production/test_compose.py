"""compose.yaml, Dockerfile and the scripts beside them: no container engine reads them here."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.models.root import Settings
from prefect_redis.client import RedisMessagingSettings

from comfyline.errors import Unreachable, UsageError
from comfyline.stack.home import private_folder
from comfyline.stack.ports import remember_port
from comfyline.stack.process import Launch, start
from deploy import local
from tests.conftest import shared_folder

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGE = (ROOT / "Dockerfile").read_text()
FROM_FILE = re.compile(r"/run/secrets/([a-z.-]+)")


@pytest.fixture
def site(tmp_path: Path) -> local.Site:
    """A site with its passwords, of which nothing runs."""
    site = local.Site(tmp_path / "site")
    private_folder(site.layout.stack)
    subprocess.run([local.HERE / "secrets.sh", site.secrets, "db:1", "redis:2"], check=True)
    return site


def environment(name: str) -> dict[str, str]:
    """What a service of compose.yaml has in its environment, files still as files."""
    service = SERVICES[name]
    file = service.get("env_file")
    shared = local.variables(Path(file).name) if file else {}
    return shared | service.get("environment", {})


def settings(environment: dict[str, str]) -> set[str]:
    """Which settings of Prefect's and of ours an environment makes."""
    names = {name.removesuffix("_FILE") for name in environment}
    return {name for name in names if name.startswith(("PREFECT_", "COMFYLINE_"))}


def running(*arguments: str) -> list[str]:
    """The services whose command has these arguments of Prefect's."""
    said = [name for name, service in SERVICES.items() if "command" in service]
    wanted = " ".join(arguments)
    return [name for name in said if wanted in " ".join(SERVICES[name]["command"])]


def test_one_process_has_the_services_and_no_other_server_has_any() -> None:
    assert running(*local.SERVICES) == ["services"]
    assert SERVICES["services"]["deploy"]["replicas"] == 1
    assert running("server", "start") == running(*local.API) == ["api"]
    assert SERVICES["api"]["deploy"]["replicas"] == 2


def test_both_databases_are_migrated_before_any_server_starts() -> None:
    assert running(*local.MIGRATE) == ["migrate"]
    assert " ".join(local.MIGRATE_LEDGER) in SERVICES["migrate"]["command"][-1]
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "services"):
        after = SERVICES[name]["depends_on"]["migrate"]
        assert after == {"condition": "service_completed_successfully"}
        assert environment(name)["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] == "false"
    for name in ("worker-1", "worker-2"):
        assert SERVICES[name]["depends_on"]["api"] == {"condition": "service_healthy"}


def test_the_site_of_one_machine_is_the_same(site: local.Site) -> None:
    for name in ("api", "services"):
        launched = site.launch("api-1" if name == "api" else name)
        assert settings(dict(launched.environment)) - {"PREFECT_HOME"} == settings(
            environment(name)
        )
    worker = site.launch("worker-1")
    its_own = {"PREFECT_HOME", "COMFYLINE_HOME", "COMFYLINE_SITE"}  # the image's, in compose
    its_own |= {"PREFECT_WORKER_WEBSERVER_HOST", "PREFECT_WORKER_WEBSERVER_PORT"}
    for name in ("worker-1", "worker-2"):
        assert settings(dict(worker.environment)) - its_own == settings(environment(name))
    assert running(*local.WORKER) == ["worker-1", "worker-2"]
    assert running(*local.DEPLOY) == ["deploy"]
    assert SERVICES["redis"]["command"][2:] == list(local.REDIS)


def test_the_page_is_unpacked_where_its_server_may_write(site: local.Site) -> None:
    setting = "PREFECT_SERVER_UI_STATIC_DIRECTORY"
    [owned] = re.findall("--owner=comfyline --mode=0700 (.+)$", IMAGE, re.MULTILINE)
    assert environment("api")[setting].startswith(f"{owned}/")
    # Of two sites that share an installation each has its own.
    assert site.launch("api-1").environment[setting].startswith(f"{site.folder}/")


def test_every_setting_is_one_that_prefect_takes(
    site: local.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("api-1", "worker-1"):
        given = {
            key: value
            for key, value in site.launch(name).environment.items()
            if key.startswith("PREFECT_")
        }
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        taken = Settings().to_environment_variables(exclude_unset=True)
        assert set(given) - set(taken) <= {"PREFECT_REDIS_MESSAGING_URL"}
    assert RedisMessagingSettings().url == site.secret("redis-url")


def test_no_secret_stands_in_compose_and_each_is_a_file_that_its_service_has() -> None:
    for name, service in SERVICES.items():
        has = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", ())}
        for key, value in environment(name).items():
            if key.endswith("_FILE"):
                assert FROM_FILE.fullmatch(value), (name, key)
            else:
                assert not re.search("PASSWORD|TOKEN|AUTH|KEY|SECRET|DATABASE_.*URL|REDIS", key)
        text = yaml.safe_dump({**service, "environment": environment(name)})
        used = set(FROM_FILE.findall(text))
        assert used <= has, name
        assert has <= set(COMPOSE["secrets"]), name
    assert not re.search(r"://[^/\s]*:[^/\s]*@", (ROOT / "compose.yaml").read_text())


def test_each_lasting_service_restarts_and_says_whether_it_is_well() -> None:
    for name, service in SERVICES.items():
        once = name in {"migrate", "deploy"}
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        without = once or name == "services"  # it serves nobody
        by_image = name.startswith("worker")
        assert ("test" in service.get("healthcheck", {})) == (not without and not by_image), name
    assert "/api/ready" in str(SERVICES["api"]["healthcheck"])


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    copied = re.findall(r"^COPY (?:--chown=\w+ )?(?!--from)(.+) \S+$", IMAGE, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert source in let_in
    last = IMAGE.rpartition("FROM ")[2]
    assert "USER comfyline" in last
    assert "HEALTHCHECK" in last
    assert "pip install" not in last
    assert "--constraint constraints.txt" in IMAGE


def test_passwords_are_made_once_and_their_folder_is_closed(tmp_path: Path) -> None:
    script = shutil.copy(local.HERE / "secrets.sh", tmp_path)
    said = [subprocess.run([script], check=True, capture_output=True, text=True).stdout]
    folder = tmp_path / "secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    said.append(subprocess.run([script], check=True, capture_output=True, text=True).stdout)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    assert folder.stat().st_mode & 0o777 == 0o700
    # Whatever user a container has reads its own.
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert set(COMPOSE["secrets"]) - set(first) == {"runcomfy-token"}
    for name, entry in COMPOSE["secrets"].items():
        assert entry == {"file": f"deploy/secrets/{name}"}
    assert all("runcomfy-token" in text for text in said)
    assert not any(first[name].strip() in text for name in first for text in said)


def test_the_passwords_of_one_machine_are_its_owners_alone(site: local.Site) -> None:
    assert {path.stat().st_mode & 0o777 for path in site.secrets.iterdir()} == {0o600}
    password = site.secret("prefect-password")
    assert site.secret("prefect-database-url").endswith(f"//prefect:{password}@db:1/prefect")
    launched = [site.launch(name) for name in ("redis", "api-1", "services", "worker-1")]
    secrets = [path.read_text().strip() for path in site.secrets.glob("*-password")]
    for one in launched:
        assert not any(secret in " ".join(one.command) + repr(one) for secret in secrets)


def test_flow_runs_of_a_container_are_told_to_end_and_a_deaf_worker_is_ended_after_them(
    tmp_path: Path,
) -> None:
    for name in ("worker-1", "worker-2"):
        assert SERVICES[name]["command"][0] == "with-runs"
    begun, done, run = tmp_path / "begun", tmp_path / "done", tmp_path / "run.sh"
    run.write_text(f'trap "sleep 1; touch {done}; exit" TERM; touch {begun}; sleep 60 & wait')
    # As Prefect's worker: its run is in a session of its own, and SIGTERM ends nothing.
    worker = f"trap : TERM; setsid sh {run} & while true; do sleep 1; done"
    program = [sys.executable, local.HERE / "with-runs.py"]
    with_runs = subprocess.Popen([*program, "sh", "-c", worker])
    while not begun.exists():
        assert with_runs.poll() is None
        time.sleep(0.02)
    with_runs.terminate()
    assert with_runs.wait(60)
    assert done.exists()


def test_what_a_secret_file_holds_becomes_a_setting(tmp_path: Path) -> None:
    held = tmp_path / "secret"
    held.write_text("hush\n")
    script = (local.HERE / "with-secrets.sh").read_text().replace("/run/secrets/", f"{tmp_path}/")
    given = {"PATH": os.environ["PATH"], "PREFECT_API_AUTH_STRING_FILE": str(held), "OTHER": "a b"}
    done = subprocess.run(
        ["sh", "-c", script, "with-secrets", "env"], env=given, capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert "PREFECT_API_AUTH_STRING=hush" in lines
    assert "OTHER=a b" in lines
    assert not any("_FILE=" in line for line in lines)
    held.unlink()
    missing = subprocess.run(
        ["sh", "-c", script, "x", "env"], env=given, capture_output=True, check=False
    )
    assert missing.returncode, "a service without its secret would start"


def test_servers_at_other_ports_keep_their_passwords_and_get_new_addresses(
    site: local.Site,
) -> None:
    before = {path.name: path.read_text() for path in site.secrets.iterdir()}
    for name, port in (("postgres", 7001), ("redis", 7002)):
        remember_port(site.layout.ports, name, port)
    site.make_secrets()
    after = {path.name: path.read_text() for path in site.secrets.iterdir()}
    changed = {"ledger-url", "prefect-database-url", "redis-url"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert "@127.0.0.1:7001/" in after["ledger-url"]
    assert after["redis-url"].strip().endswith("@127.0.0.1:7002/0")


def test_a_worker_goes_elsewhere_where_its_port_was_taken_while_it_was_down(
    site: local.Site,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        remember_port(site.layout.ports, "worker-1", taken)
        port = site.launch("worker-1").environment["PREFECT_WORKER_WEBSERVER_PORT"]
    assert port != str(taken)
    assert site.launch("worker-1").environment["PREFECT_WORKER_WEBSERVER_PORT"] == port


def test_what_leads_to_a_site_is_for_any_shell_and_for_postgresql_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = local.Site(tmp_path / "team's site")
    private_folder(site.layout.stack)
    site.make_secrets()
    with pytest.raises(UsageError, match="There is no site"):
        local.env(site.folder)
    started(site, "redis")
    capsys.readouterr()
    local.env(site.folder)
    code = f'{capsys.readouterr().out}\necho "$COMFYLINE_HOME|$PGDATABASE|$PGPASSWORD"'
    said = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{site.layout.home}|comfyline|{site.secret('ledger-password')}"


def test_a_process_that_a_site_never_had_is_not_taken_for_one_that_has_stopped(
    site: local.Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (local.down, local.status):
        with pytest.raises(UsageError, match="There is no site"):
            command(site.folder)
    started(site, "redis")
    site.layout.log("comfyline").write_text("of a run, and no process")
    with pytest.raises(UsageError, match="There is no wroker-1"):
        local.down(site.folder, "wroker-1")
    local.down(site.folder)
    assert local.status(site.folder) == 1
    shown = capsys.readouterr().out
    assert "redis" in shown
    assert "comfyline.log" not in shown


def test_a_database_server_with_half_of_its_roles_is_none_and_tells_no_password(
    tmp_path: Path,
) -> None:
    folder = shared_folder() / tmp_path.name  # PostgreSQL's own user can enter it
    site = local.Site(folder)
    private_folder(site.secrets)
    site.make_secrets()
    roles = site.secrets / "postgres.sql"
    folder.chmod(0o711)
    whole = roles.read_text()
    roles.write_text(f"CREATE ROLE pg_one PASSWORD 'hunter2';\n{whole}")  # such names are its own
    with pytest.raises(Unreachable, match="cannot make") as refused:
        site.launch("postgres")
    assert not (folder / "postgres").exists()
    assert "hunter2" not in str(refused.value)
    roles.write_text(whole)
    site.launch("postgres")
    assert (folder / "postgres").is_dir()


def started(site: local.Site, name: str) -> None:
    """Starts a process under a name, which ends at once."""
    start(site.layout, name, 0, Launch(("true",), {}))
