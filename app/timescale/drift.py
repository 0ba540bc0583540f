"""How two catalogues of a schema differ: what the migrations make, and what is there. Pure."""

from __future__ import annotations

import msgspec

from app.timescale.definitions import Catalogue


class Difference(msgspec.Struct, frozen=True):
    """An object that isn't what the migrations say: `expected` None where they say nothing, `actual` None where it isn't."""

    kind: str
    name: str
    expected: str | None
    actual: str | None

    def __str__(self) -> str:
        if self.actual is None:
            return f"{self.kind} {self.name} is missing: {self.expected}"
        if self.expected is None:
            return f"{self.kind} {self.name} is not in the migrations: {self.actual}"
        return f"{self.kind} {self.name} is {self.actual}, and the migrations say {self.expected}"


def find_differences(expected: Catalogue, actual: Catalogue) -> list[Difference]:
    """The objects that are missing, extra or other, by kind and name; of a table or policy that is, nothing that belongs to it."""
    return [
        Difference(kind, name, _fold(expected.get((kind, name))), _fold(actual.get((kind, name))))
        for kind, name in sorted(expected.keys() | actual.keys())
        if expected.get((kind, name)) != actual.get((kind, name)) and not _is_of_other(kind, name, expected, actual)
    ]


def _fold(definition: str | None) -> str | None:
    return None if definition is None else " ".join(definition.split())


def _is_of_other(kind: str, name: str, expected: Catalogue, actual: Catalogue) -> bool:
    """Whether it belongs to a table or a policy that is missing or extra itself."""
    policy, table = ("policy", name), ("table", name.split(".", maxsplit=1)[0])
    return (kind != "table" and (table in expected) != (table in actual)) or (
        kind == "policy settings" and (policy in expected) != (policy in actual)
    )
