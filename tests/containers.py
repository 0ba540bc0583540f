"""What compose.yaml and the Dockerfile say, done on this machine: there is no engine for containers where the tests run.

A service's command runs with its environment, as its user, without capabilities, on a file system that can't be written but
for its tmpfs and volumes, in the folder and with the files that the image has. What an engine does beside that (networks,
limits, images) isn't seen.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

COMPOSE: Any = YAML(typ="safe").load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FINAL_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
WORKDIR = "/srv/aurumai"

# As in a container: nothing of the machine can be written, and a new /tmp, /run and /srv are all there is to see of those.
PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/secrets && mount --bind {secrets} /run/secrets
mount -t tmpfs -o mode=755 tmpfs /srv && mkdir {workdir} && mount --bind {image} {workdir}
mount -o remount,ro,bind {workdir}
{volumes}
mount -o remount,ro,bind / && mount -o remount,ro /run && mount -o remount,ro /srv
mount -t tmpfs -o {tmpfs} tmpfs /tmp
cd {workdir}
exec env -i {environ} setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --inh-caps=-all{read} {command}
"""


def require_namespaces() -> None:
    """Skips the test where no file system of its own can be made."""
    tools = all(shutil.which(name) for name in ("unshare", "setpriv", "mount"))
    if not tools or os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("needs root, unshare and setpriv for a file system of its own")


def read_environ(service: str) -> dict[str, str]:
    """A service's environment, as it is where nothing is set outside."""
    given = COMPOSE["services"][service]["environment"]
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in given.items()}


class Image:
    """A folder with what the Dockerfile copies, and nothing else; `secrets` are the files of compose.yaml's secrets."""

    def __init__(self, folder: Path, secrets: dict[str, str]) -> None:
        self.files, self.secrets, self.backups = (folder / name for name in ("image", "secrets", "backups"))
        for each in (self.files, self.secrets, self.backups):
            each.mkdir(mode=0o755)
        os.chown(self.backups, 10001, 10001)
        for name, text in secrets.items():
            (self.secrets / name).write_text(text)
        for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
            for name in copied.split():
                source = ROOT / name
                if source.is_dir():
                    shutil.copytree(source, self.files / name, ignore=shutil.ignore_patterns("__pycache__"))
                elif name != "pyproject.toml":
                    shutil.copy(source, self.files / name)
        (self.files / "backups").mkdir()

    async def run(self, service: str, *command: str, **variables: str) -> asyncio.subprocess.Process:
        """Starts a service's command, or another one in its place."""
        described = COMPOSE["services"][service]
        uid, gid = described["user"].split(":")
        (tmpfs,) = described["tmpfs"]
        path, _, options = tmpfs.partition(":")
        assert path == "/tmp"
        # The programs' own folder may be one that only root may look into, which in an image it isn't.
        read = ",+dac_read_search --ambient-caps=+dac_read_search --bounding-set=-all,+dac_read_search"
        environ = {
            **dict(re.findall(r"^(?:ENV|   ) (HOME|LOGNAME|PYTHON\w+)=(\S+)", FINAL_STAGE, re.MULTILINE)),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            **read_environ(service),
            **variables,
        }
        script = PREPARE.format(
            secrets=self.secrets,
            image=self.files,
            workdir=WORKDIR,
            volumes=f"mount --bind {self.backups} {WORKDIR}/backups" if described.get("volumes") else "",
            tmpfs=options,
            environ=shlex.join(f"{name}={value}" for name, value in environ.items()),
            uid=uid,
            gid=gid,
            read=read,
            command=shlex.join(command or ("invoke", *described["command"])),
        )
        return await asyncio.create_subprocess_exec(
            "unshare", "--mount", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
