"""`python -m app.ops.probe`: whether the service on this machine is ready, for health checks of containers.

Ends with 0 if it is, else with 1 and the reason. It imports nothing of ours, since it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

PATIENCE: Final = 4  # seconds


def ask(port: int) -> str | None:
    """Why it isn't ready; None if it is."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        return f"The service does not answer on port {port}: {error!r}."
    finally:
        connection.close()
    return None if response.status == 200 else text


if __name__ == "__main__":
    sys.exit(ask(int(os.environ.get("AURUM_PORT") or 8000)))
