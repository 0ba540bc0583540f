"""What the writer counts: readings by what became of them, transactions by rows and time. Pure."""

from __future__ import annotations

from app.ingest.refusal import RejectionCode
from app.measures import SECONDS, Histogram

ROWS = (1, 10, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000)


class IngestMeasures:
    """Readings of answers that say what became of them, and committed transactions."""

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicates = 0
        self.conflicts = 0
        self.rejected = dict.fromkeys(RejectionCode, 0)
        self.batch_rows = Histogram(ROWS)
        self.commit_seconds = Histogram(SECONDS)
        self.failed_commits = 0
