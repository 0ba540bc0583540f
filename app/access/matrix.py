"""The one matrix: what each role may do, for every field of Query, Mutation and Subscription, and every route. Pure.

What isn't here is for an admin alone, and a test fails until it is. A field below the roots needs no rule of its own; one
that is given here needs it wherever it is selected. A principal of some locations has the same roles there, and besides
sees only the machines of these locations (`visibility`); what is about the whole database is not for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from app.access.principal import Principal
from app.access.roles import ATTENDANTS, ENGINEERS, READERS, SENDERS, Role


@dataclass(frozen=True)
class Rule:
    """Whoever has one of these roles may; with `everywhere`, only where they aren't bound to locations."""

    roles: frozenset[Role]
    everywhere: bool = False

    def allows(self, principal: Principal) -> bool:
        if self.everywhere and principal.locations is not None:
            return False
        return not self.roles.isdisjoint(principal.roles)


class Entry(Enum):
    """What a route asks beside a rule: OPEN nothing; ANSWERED nothing either, but what it answers depends on who asks."""

    OPEN = "open"
    ANSWERED = "answered"


_READ: Final = Rule(READERS)
_ATTEND: Final = Rule(ATTENDANTS)
_ENGINEER: Final = Rule(ENGINEERS)
_SEND: Final = Rule(SENDERS)
_UNSAID: Final = Rule(frozenset({Role.ADMIN}))

FIELDS: Final[Mapping[str, Rule]] = {
    "Query.fleet": _READ,
    "Query.machine": _READ,
    "Query.machines": _READ,
    "Query.measurements": _READ,
    "Query.features": _READ,
    "Query.predictions": _READ,
    "Query.esgRecords": _READ,
    "Query.alerts": _READ,
    "Query.machinesAggregate": _READ,
    "Query.measurementsAggregate": _READ,
    "Query.featuresAggregate": _READ,
    "Query.predictionsAggregate": _READ,
    "Query.esgRecordsAggregate": _READ,
    "Query.alertsAggregate": _READ,
    "Query.series": _READ,
    "Query.storage": Rule(ENGINEERS, everywhere=True),
    "Mutation.ingest": _SEND,
    "Mutation.registerMachine": _ENGINEER,
    "Mutation.registerMachines": _ENGINEER,
    "Mutation.updateMachine": _ENGINEER,
    "Mutation.retireMachine": _ENGINEER,
    "Mutation.recordPrediction": _ENGINEER,
    "Mutation.recordPredictions": _ENGINEER,
    "Mutation.raiseAlert": _ENGINEER,
    "Mutation.clearAlert": _ATTEND,
    "Mutation.acknowledgeAlert": _ATTEND,
    "Mutation.acknowledgeAlerts": _ATTEND,
    "Mutation.resolveAlert": _ATTEND,
    "Mutation.resolveAlerts": _ATTEND,
    "Mutation.shelveAlert": _ATTEND,
    "Subscription.measurements": _READ,
    "Subscription.predictions": _READ,
    "Subscription.alerts": _READ,
}

ROUTES: Final[Mapping[str, Rule | Entry]] = {
    "/graphql": Entry.ANSWERED,  # each operation by the rules of its fields
    "/graphql/graphiql/{name}": Entry.OPEN,
    "/health/live": Entry.OPEN,
    "/health/ready": Entry.ANSWERED,  # the reasons, to whoever is known
    "/ingest": _SEND,
    "/metrics": Rule(READERS, everywhere=True),  # of all machines together
}

_ROOTS: Final = frozenset({"Query", "Mutation", "Subscription"})


def find_field_rule(owner: str, name: str) -> Rule | None:
    """The rule of a field of a GraphQL type; None where whoever comes there may have it."""
    rule = FIELDS.get(f"{owner}.{name}")
    return _UNSAID if rule is None and owner in _ROOTS and not name.startswith("__") else rule


def find_route_rule(path: str) -> Rule | Entry:
    """The rule of a route, by its path as it was declared."""
    return ROUTES.get(path, _UNSAID)


def describe_refusal(what: str, rule: Rule, principal: Principal) -> str:
    """Why somebody may not, as a sentence that begins with what it is."""
    names = [role.value for role in Role if role in rule.roles]
    roles = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    if rule.everywhere and principal.locations is not None:
        return f"{what} is for {roles} of all locations, and {principal.name} is bound to some."
    return f"{what} is for {roles}, and {principal.name} is none of these."
