"""Declarations of a table some of whose columns get other names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.timescale.expressions import rename_in_expression
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index


def rename_in_hypertable(declared: Hypertable, names: Mapping[str, str]) -> Hypertable:
    """The same declaration with the columns' new names."""
    compression = declared.compression and replace(
        declared.compression,
        segment_by=tuple(names.get(each, each) for each in declared.compression.segment_by),
        order_by=tuple(_rename_term(each, names) for each in declared.compression.order_by),
    )
    return replace(
        declared,
        time_column=names.get(declared.time_column, declared.time_column),
        compression=compression,
        aggregates=tuple(
            replace(
                aggregate,
                group_by=tuple(names.get(each, each) for each in aggregate.group_by),
                columns=tuple((name, rename_in_expression(each, names)) for name, each in aggregate.columns),
            )
            for aggregate in declared.aggregates
        ),
    )


def rename_in_index(index: Index, names: Mapping[str, str]) -> Index:
    """The same index over the columns' new names."""
    where = index.where and rename_in_expression(index.where, names)
    return replace(index, columns=tuple(_rename_term(each, names) for each in index.columns), where=where)


def _rename_term(term: str, names: Mapping[str, str]) -> str:
    column, _, order = term.partition(" ")
    return f"{names.get(column, column)} {order}".strip()
