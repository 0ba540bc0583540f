"""docs/migrations.md, followed by the letter: its change, every command in it, and each thing that it says may be said."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.migrations.state import list_migrations
from app.ops.programs import choose_programs
from tests.conftest import ROOT, make_database, make_environ, read_database, replace_database, run_sql
from tests.ports import find_free_port

GUIDE = (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")
COPIED = ["app", "docs", "piccolo_migrations", "piccolo_conf.py", "tasks.py", "pyproject.toml", "schema.graphql"]
PSQL = Path(choose_programs(None, 18, "the guide")["psql"])
BLOCK = re.compile(r"```(sh|diff)\n(.*?)```", re.DOTALL)


class Checkout:
    """A copy of the project whose files a reader of the guide may change."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    @property
    def migrations(self) -> list[Path]:
        return sorted((self.folder / "piccolo_migrations").glob("*.py"))

    def run(self, command: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
        """In a shell that finds the environment's programs, as `uv run` would, and psql."""
        environ = make_environ(DATABASE_URL=url or self.url)
        return subprocess.run(
            ["bash", "-c", command.removeprefix("uv run ")],
            cwd=self.folder,
            env={**environ, "PATH": f"{Path(sys.executable).parent}:{PSQL.parent}:{environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def run_well(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, diff: str) -> None:
        subprocess.run(["git", "apply", "-"], cwd=self.folder, input=diff, text=True, check=True)


def as_pattern(message: str) -> str:
    """A message of the guide, in which … stands for what depends on the case."""
    return ".+".join(re.escape(part) for part in message.split("…"))


MESSAGES = [as_pattern(message) for message in re.findall(r"^\| `([A-Z_]+: .*?)` \|", GUIDE, re.MULTILINE)]


def find_message(output: str) -> str | None:
    """The guide's message that an output is."""
    return next((pattern for pattern in MESSAGES if re.search(f"^{pattern}", output, re.MULTILINE)), None)


@pytest.mark.timeout(900)  # three dozen commands, each a process
async def test_the_guide_followed_by_the_letter(server_url: str, tmp_path: Path) -> None:
    async with make_database(server_url) as url:
        checkout = Checkout(tmp_path, url)
        before = len(checkout.migrations)
        checkout.run_well("invoke migrate")
        ran = []
        for kind, text in BLOCK.findall(GUIDE):
            if kind == "diff":
                checkout.apply(text)
                assert checkout.run("invoke migrate-check").returncode == 4
                continue
            for command in text.strip().splitlines():
                checkout.run_well(command)
                ran.append(command)
        assert len(checkout.migrations) == before + 3  # the new field's, an empty one, the data migration's
        assert "serial_number" in checkout.migrations[before].read_text()
        named = set(re.findall(r"invoke ([a-z-]+)", GUIDE))
        run = {match[1] for command in ran if (match := re.match(r"uv run invoke ([a-z-]+)", command))}
        assert named - run == set()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path, "postgresql://127.0.0.1:1/nowhere")


def refuse(checkout: Checkout, url: str, command: str = "invoke migrate") -> str:
    done = checkout.run(command, url)
    assert done.returncode in (1, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if re.match("[A-Z_]+: ", line))
    return line


async def test_what_is_wrong_with_the_database_is_said_as_the_guide_says(
    server_url: str, template: str, checkout: Checkout
) -> None:
    said = {
        refuse(checkout, f"postgresql://a:pa55word@127.0.0.1:{find_free_port()}/a"): "can't be reached",
        refuse(checkout, replace_database(server_url, "nowhere")): 'database "nowhere" does not exist',
    }
    async with make_database(server_url) as url:
        await run_sql(url, "CREATE TABLE migration (version int)")
        said[refuse(checkout, url)] = "isn't Piccolo's"
    async with make_database(server_url) as url:
        await run_sql(url, "DROP SCHEMA public")
        said[refuse(checkout, url)] = "There is no schema to create tables in"
    async with make_database(server_url) as url:
        await run_sql(server_url, f"ALTER DATABASE {read_database(url)} SET default_transaction_read_only = on")
        said[refuse(checkout, url)] = "read-only"
    async with make_database(server_url) as url:
        await run_sql(url, "CREATE TABLE machines (mine int)")
        said[refuse(checkout, url)] = 'relation "machines" already exists'
    async with make_database(server_url, template) as url:
        await run_sql(url, "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x')")
        said[refuse(checkout, url, "invoke migrate-to --id base")] = "1 of machines"
        await run_sql(url, "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
        said[refuse(checkout, url)] = "ahead of this code"
    for line, reason in said.items():
        assert reason in line
        assert find_message(line), line
    assert len(said) == 8


async def test_what_is_wrong_with_a_file_is_said_as_the_guide_says(
    server_url: str, template: str, checkout: Checkout
) -> None:
    first, newest = checkout.migrations[0], checkout.migrations[-1]
    kept = newest.read_text()
    async with make_database(server_url, template) as url:
        for text, reason in {
            kept.replace("async def forwards():", "async def forwards(:"): f"{newest.name} can't be read: line ",
            f"import nothing_like_it\n{kept}": f"{newest.name}, line 1: ModuleNotFoundError",
            f"{kept}# a thought\n": f"Edited since it was applied: {newest.name}.",
        }.items():
            newest.write_text(text)
            line = refuse(checkout, url)
            assert reason in line
            assert find_message(line), line
        newest.write_text(kept)
        await run_sql(url, f"DELETE FROM migration WHERE name = '{list_migrations()[0]}'")
        line = refuse(checkout, url)
        assert f"{list_migrations()[0]} comes before {list_migrations()[-1]}, which is applied" in line
        assert find_message(line), line
    assert first.exists()
