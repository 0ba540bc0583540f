"""A PostgreSQL for when DATABASE_URL is not set: found or installed with the project, started on first use, shared by
every process that opens it, and stopped when the last of them has gone, however it went.

    installations   which PostgreSQL there is on this machine, and which to take
    directory       what lies where in AURUM_DATA_DIR
    locks           files that tell who uses the server, who starts it, who keeps it, and whether it runs
    account         who runs the server when root may not
    cluster         the data directory: made whole or not at all, and matched with an installation
    postmaster      the running server: asking it, launching it, stopping it, what its log says
    keeper          the small process that outlives the server's users and stops it after the last
    server          opening and releasing a share in it

Whoever uses the server holds a shared lock on `users.lock`; the keeper waits for it exclusively. The kernel lets go of
a dead process's locks, so a `kill -9` counts as a release. The server itself holds `server.lock` with every one of its
processes, so "does it run" never depends on a process number in a file.
"""

from app.embedded.installations import Installation, find_installation
from app.embedded.server import EmbeddedServer, open_embedded

__all__ = ["EmbeddedServer", "Installation", "find_installation", "open_embedded"]
