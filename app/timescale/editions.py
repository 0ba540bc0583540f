"""What the editions can't do of what tables declare, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.database import Edition, EditionName
from app.timescale.hypertable import Hypertable
from app.timescale.steps import Needs


def describe_left_out(declared: Mapping[str, Hypertable], edition: Edition) -> list[str]:
    """A sentence for each thing that is declared and left out on this edition, by table; none on Community."""
    if edition.name is EditionName.COMMUNITY:
        return []
    return [
        f"{table}: {sentence}." for table in sorted(declared) for sentence in _describe_table(declared[table], edition)
    ]


def _describe_table(declared: Hypertable, edition: Edition) -> Iterator[str]:
    community = Needs.COMMUNITY.value
    if not edition.has_hypertables:
        yield f"chunks by {declared.time_column} need {Needs.HYPERTABLES.value}"
    if declared.compression is not None:
        yield f"compression needs {community}"
    if declared.retention is not None:
        instead = "drops chunks" if edition.has_hypertables else "deletes rows in batches"
        yield f"a retention policy needs {community}; instead, while it runs, the service {instead}"
    for aggregate in declared.aggregates:
        yield f"the aggregate {aggregate.name} needs {community}"
