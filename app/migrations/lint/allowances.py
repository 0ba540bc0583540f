"""What a migration file says about findings that are right there: `# migrate-lint: allow RULE because REASON`. Pure."""

from __future__ import annotations

import re
import tokenize
from dataclasses import dataclass
from io import StringIO

_MARK = re.compile(r"#\s*migrate-lint\b:?\s*(?P<said>.*)", re.IGNORECASE)
_ALLOW = re.compile(r"allow\s+(?P<rule>[a-z-]+)\s+because\s+(?P<reason>\S.*)")


@dataclass(frozen=True)
class Allowance:
    """`rule` is None where the comment can't be read, or gives no reason. It holds for the whole file."""

    line: int
    rule: str | None


def read_allowances(source: str) -> list[Allowance]:
    """Those of a file, in order. What stands in a string is no comment."""
    found = []
    for token in tokenize.generate_tokens(StringIO(source).readline):
        marked = _MARK.fullmatch(token.string) if token.type == tokenize.COMMENT else None
        if marked is not None:
            allowed = _ALLOW.fullmatch(marked["said"].strip())
            found.append(Allowance(token.start[0], allowed["rule"] if allowed else None))
    return found
