"""Commands about who may do what: API keys, and the record of who changed what."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from getpass import getuser

from invoke.context import Context
from invoke.tasks import task

from app.access.audit import begin_deed
from app.access.principal import make_operator
from app.access.roles import Role
from app.console import complain, say
from app.errors import InvalidInput
from app.tasks.databases import ask_database
from app.tasks.options import read_choice, read_duration
from app.tasks.reports import print_json, report_errors
from app.texts import check_line
from app.timescale.journal import name_user


@task(
    iterable=["role", "location"],
    help={
        "name": "who or what the key is for; what it does is kept under key:NAME",
        "role": f"what it may do: {', '.join(role.value for role in Role)}; several, by giving it several times",
        "location": "a location that it is bound to; several, by giving it several times. Without any it sees all",
        "expires": "after how long it ends, such as P90D (ISO 8601 duration); without it, when it is revoked",
    },
)
def key_new(_: Context, name: str, role: list[str], location: list[str], expires: str = "") -> None:
    """Makes an API key and prints it, the only time that it can be seen."""
    from app.access.keys import NewKey, make_key

    with report_errors():
        new = NewKey(
            name=name,
            roles=frozenset(read_choice("role", text.lower(), Role) for text in role),
            locations=frozenset(check_line(text, "location") for text in location) or None,
            expires_at=_read_end(expires) if expires else None,
            created_by=getuser(),
        )
        deed = begin_deed(make_operator(name_user()), "key-new")
        key = ask_database(lambda connection: make_key(connection, new, deed))
        complain("This is all that will ever be seen of it: the database keeps a hash alone.")
        print(key)  # noqa: T201 - for a program


def _read_end(expires: str) -> datetime:
    try:
        return datetime.now(UTC) + read_duration("expires", expires)
    except OverflowError as error:
        raise InvalidInput(
            f"--expires is {expires!r}, which ends after the year 9999: leave it out for no end."
        ) from error


@task(help={"json": "for programs: a list of keys, as JSON"})
def key_list(_: Context, json: bool = False) -> None:
    """Shows all API keys, by their prefixes: what each may do, until when, and when it was used last."""
    from app.access.keys import list_keys

    with report_errors():
        keys = ask_database(list_keys)
        if json:
            print_json(keys)
            return
        for key in keys:
            say(key.describe())
        if not keys:
            say("There is no key: invoke key-new makes one.")


@task(help={"prefix": "what key-list shows the key by"})
def key_revoke(_: Context, prefix: str) -> None:
    """Takes an API key out of use for good, everywhere within 5 seconds."""
    from app.access.keys import revoke_key

    with report_errors():
        deed = begin_deed(make_operator(name_user()), "key-revoke")
        name = ask_database(lambda connection: revoke_key(connection, prefix, deed))
        say(f"Revoked {prefix} ({name}): it lets nobody in any more, everywhere within 5 seconds.")


@task(
    help={
        "since": "an anchor to begin behind, NUMBER:HASH, as this command printed it; by default all rows",
        "expect": "an anchor that must be in the chain: shows whether the newest rows were removed",
    }
)
def audit_verify(_: Context, since: str = "", expect: str = "") -> None:
    """Looks whether all rows of audit are there, as they were written: exit 0 they are, 1 they aren't, and which is the first."""
    from app.access.chain import BEGINNING, read_anchor
    from app.access.verifier import verify_chain

    with report_errors():
        begin = read_anchor(since, "since") if since else BEGINNING
        expected = read_anchor(expect, "expect") if expect else None
        finding = ask_database(lambda connection: verify_chain(connection, begin, expected))
        if finding.problem is not None:
            complain(f"{finding.problem} {finding.rows:,} rows before are right, up to {finding.newest}.")
            sys.exit(1)
        say(f"{finding.rows:,} rows are as they were written. The newest is {finding.newest}.")
