"""Has schemathesis ask every field of Query and Mutation, rightly and wrongly, and says what came of it.

    fuzz.py URL CASES KNOWN

KNOWN is a JSON list of ids that rows have, of which arguments are made too. Prints a JSON object: {"cases", "answered" (without
an error), "slowest" (seconds), "codes" ({code: errors}), "bad" ([{"why", "query", "answer"}], the first 20)}.
"""

import json
import string
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import requests
import schemathesis
from graphql import NameNode, ObjectFieldNode, ObjectValueNode, ValueNode
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.graphql import nodes

MOST_TOLD = 20
LONGEST = 40.0  # seconds that an answer may take before it counts as none: more than any statement has
# Without nulls more of what is asked can be answered: `where` refuses them.
PASSES = ((GenerationMode.POSITIVE, False), (GenerationMode.POSITIVE, True), (GenerationMode.NEGATIVE, True))
SETTINGS = {
    "database": None,
    "deadline": None,
    "derandomize": True,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


@dataclass
class Tally:
    """What has come of it so far."""

    cases: int = 0
    answered: int = 0
    slowest: float = 0.0
    codes: Counter[str | None] = field(default_factory=Counter)
    bad: list[dict[str, object]] = field(default_factory=list)

    def complain(self, why: str, query: str, answer: object) -> None:
        if len(self.bad) < MOST_TOLD:
            self.bad.append({"why": why, "query": query[:4000], "answer": str(answer)[:2000]})

    def add(self, query: str, response: requests.Response) -> None:
        if response.status_code not in {200, 400}:
            self.complain(f"status {response.status_code}", query, response.text)
            return
        errors = response.json().get("errors", [])
        self.answered += not errors
        for error in errors:
            code = error.get("extensions", {}).get("code")
            self.codes[code] += 1
            if code in {None, "INTERNAL"}:
                self.complain(f"code {code}", query, error)


def build_object(values: dict[str, ValueNode]) -> ObjectValueNode:
    """Its names are GraphQL's; whatever JSON allows beyond them can only come in variables."""
    return nodes.Object([ObjectFieldNode(name=NameNode(value=name), value=value) for name, value in values.items()])


def register_scalars(known: list[str]) -> None:
    """What values are made of, so that many of them are found, and many are just beyond what may be."""
    small = st.integers(0, 50)
    whole = small | small | small | st.integers(-(2**31), 2**31 - 1)
    numbers = st.floats(allow_nan=False, allow_infinity=False).map(nodes.Float) | st.integers().map(nodes.Int)
    names = st.sampled_from(["rpm", "temperature", "", "é", "a\u0000b", "constructor"]) | st.text(max_size=8)
    texts = st.sampled_from([*known, "%", "\\", "Europe/Berlin", "UTC", "W1siTWFjaGluZSJdXQ=="]) | names
    edges = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00+14:00", "0001-01-02T00:00:00Z", "9999-12-30T00:00:00Z"]
    wrong = st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z", "2026-01-01T00:00:00", "now"])
    dates = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1)).map(lambda instant: f"{instant.isoformat()}Z")  # noqa: DTZ001 - the Z says it
    instants = st.integers(0, 19).flatmap(lambda chance: st.sampled_from(edges) | dates if chance else wrong)
    durations = ["PT1S", "PT1M", "PT1H", "P1D", "P7D", "PT0S", "-PT1H", "P1Y", "PT0.001S", "P999999999D"]
    words = st.text(string.ascii_letters, min_size=1, max_size=8)
    anything = st.recursive(
        numbers | names.map(nodes.String) | st.booleans().map(nodes.Boolean),
        lambda inner: (
            st.lists(inner, max_size=4).map(nodes.List) | st.dictionaries(words, inner, max_size=4).map(build_object)
        ),
        max_leaves=12,
    )
    for name, strategy in {
        "Int": whole.map(nodes.Int),
        "ID": (st.sampled_from(known) | st.text(max_size=12)).map(nodes.String),
        "String": texts.map(nodes.String),
        "DateTime": instants.map(nodes.String),
        "Duration": st.sampled_from(durations).map(nodes.String),
        "EpochMillis": st.integers().map(nodes.Int),
        "JSON": anything,
        "Metrics": st.dictionaries(words, numbers, max_size=4).map(build_object) | anything,
    }.items():
        schemathesis.graphql.scalar(name, strategy)


def fuzz(url: str, cases: int) -> Tally:
    tally = Tally()
    session = requests.Session()

    def ask(case: schemathesis.Case) -> None:
        tally.cases += 1
        began = time.monotonic()
        try:
            tally.add(case.body, session.post(url, json={"query": case.body}, timeout=LONGEST))
        except requests.RequestException as error:
            tally.complain("no answer", case.body, error)
        tally.slowest = max(tally.slowest, time.monotonic() - began)

    for mode, nulls in PASSES:
        schema = schemathesis.graphql.from_url(url)
        schema.config.generation.update(graphql_allow_null=nulls)
        operations = [result.ok() for result in schema.get_all_operations()]
        share = -(-cases // (len(operations) * len(PASSES)))
        for operation in operations:
            strategy = operation.as_strategy(generation_mode=mode)
            settings(max_examples=share, **SETTINGS)(given(case=strategy)(ask))()
    return tally


register_scalars(json.loads(sys.argv[3]))
print(json.dumps(vars(fuzz(sys.argv[1], int(sys.argv[2])))), flush=True)  # noqa: T201 - what the test reads
