"""The files of secrets that compose.yaml gives to containers, made once and never changed."""

from __future__ import annotations

import secrets
from pathlib import Path

_BYTES = 32  # random ones of a password


def make_secrets(folder: Path) -> None:
    """Makes those that aren't there. A password that is there stays, since a database may have been made with it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    password = _make_file(folder / "postgres_password", secrets.token_urlsafe(_BYTES))
    _make_file(folder / "database_url", f"postgresql://aurum:{password}@db:5432/aurum")
    _make_file(folder / "grafana_password", secrets.token_urlsafe(_BYTES))
    _make_file(folder / "prometheus_key", "")  # for whoever makes one: the service must be there first


def _make_file(path: Path, text: str) -> str:
    """What it holds. Whoever runs in a container isn't its owner, so that only the folder keeps others from it."""
    if not path.exists():
        path.touch(mode=0o644, exist_ok=False)
        path.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
