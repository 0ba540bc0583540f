"""GraphiQL in a real browser that reaches nothing but the service, and whether clients may ask for the schema."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import asyncpg
import msgspec
import pytest

from app.access.roles import Role
from app.errors import ScriptsMissing
from app.graphql.graphiql.scripts import FOLDER, SCRIPTS, bring_scripts
from tests.browser import Page, find_browser, open_page
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.keys import PRODUCTION, make

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="session")
def scripts() -> None:
    try:
        bring_scripts()
    except ScriptsMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def browser(scripts: None) -> str:
    program = find_browser()
    if program is None:
        pytest.skip("There is no Chromium here.")
    return program


async def test_a_query_is_tried_in_a_browser_that_reaches_nothing_else(service: ServiceClient, browser: str) -> None:
    await service.register("A", "B")
    async with open_page(browser, f"{service.url}/graphql") as page:
        await page.wait_for("!!document.querySelector('.graphiql-query-editor .CodeMirror')")
        await page.evaluate(
            "document.querySelector('.graphiql-query-editor .CodeMirror').CodeMirror.setValue('{ fleet { machines } }')"
        )
        await page.evaluate("document.querySelector('.graphiql-execute-button').click()")
        answer = await page.wait_for(
            "(text => text.includes('fleet') && text)"
            "(document.querySelector('.result-window .CodeMirror')?.CodeMirror.getValue() ?? '')"
        )
        assert '"machines": 2' in answer
        # The schema was asked for and understood: a field that isn't there is marked as it's typed.
        await page.evaluate(
            "document.querySelector('.graphiql-query-editor .CodeMirror').CodeMirror.setValue('{ nonsense }')"
        )
        await page.wait_for("!!document.querySelector('.CodeMirror-lint-mark-error')")
        strangers = [url for url in page.requested if not url.startswith((f"{service.url}/", "data:", "about:"))]
        assert strangers == []
        assert page.complaints == []


async def test_a_subscription_is_tried_in_a_browser(service: ServiceClient, browser: str) -> None:
    await service.register("A")
    async with open_page(browser, f"{service.url}/graphql") as page:
        await page.wait_for("!!document.querySelector('.graphiql-query-editor .CodeMirror')")
        document = "subscription Follow { measurements { measurements { metrics } } }"
        await page.evaluate(
            f"document.querySelector('.graphiql-query-editor .CodeMirror').CodeMirror.setValue('{document}')"
        )
        # It reads what is typed a moment later, and then names the tab after it.
        await page.wait_for("document.querySelector('.graphiql-tab-button')?.innerText === 'Follow'")
        await page.evaluate("document.querySelector('.graphiql-execute-button').click()")
        assert '"rpm": 1500' in await ingest_until_shown(service, page)


EDITOR = "document.querySelector('.graphiql-query-editor .CodeMirror')"
HEADERS = "document.querySelector('.graphiql-editor-tool .graphiql-editor:not(.hidden) .CodeMirror')"
ANSWER = "(document.querySelector('.result-window .CodeMirror')?.CodeMirror.getValue() ?? '')"
RUN = "document.querySelector('.graphiql-execute-button').click()"
OPEN_HEADERS = "document.querySelector('.graphiql-editor-tools [data-name=headers]').click()"


async def ingest_until_shown(service: ServiceClient, page: Page) -> str:
    """A page can't say when it is subscribed; a reading every now and then arrives once it is."""
    async with asyncio.timeout(60):
        for second in itertools.count():
            await service.ingest({"machine_id": "A", "timestamp": second * 1000, "metrics": {"rpm": 1500}})
            shown: str = await page.evaluate(ANSWER)
            if "1500" in shown:
                break
    return shown


async def test_with_a_key_typed_below_the_query_the_page_asks_a_service_that_asks_everybody(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record], browser: str
) -> None:
    key = await make(connection, Role.ADMIN)
    shown = {**PRODUCTION, "AURUM_GRAPHIQL": "true", "AURUM_GRAPHQL_INTROSPECTION": "true"}
    async with (
        run_service(database_url, **shown) as service,
        ServiceClient(service.url, key) as admin,
        open_page(browser, f"{service.url}/graphql") as page,
    ):
        await admin.register("A")
        await page.wait_for(f"!!{EDITOR}")
        await page.evaluate(f"{EDITOR}.CodeMirror.setValue('{{ fleet {{ machines }} }}')")
        await page.evaluate(RUN)
        assert "Say who you are" in await page.wait_for(f"{ANSWER}.includes('UNAUTHENTICATED') && {ANSWER}")

        await page.evaluate(OPEN_HEADERS)
        await page.wait_for(f"!!{HEADERS}")
        typed = msgspec.json.encode({"Authorization": f"Bearer {key}"}).decode()
        await page.evaluate(f"{HEADERS}.CodeMirror.setValue('{typed}')")
        await page.evaluate(RUN)
        assert '"machines": 1' in await page.wait_for(f"{ANSWER}.includes('machines') && {ANSWER}")
        await page.evaluate("document.querySelector('[aria-label=\"Re-fetch GraphQL schema\"]').click()")
        await page.evaluate(f"{EDITOR}.CodeMirror.setValue('{{ nonsense }}')")
        await page.wait_for("!!document.querySelector('.CodeMirror-lint-mark-error')")

        document = "subscription Follow { measurements { measurements { metrics } } }"
        await page.evaluate(f"{EDITOR}.CodeMirror.setValue('{document}')")
        await page.wait_for("document.querySelector('.graphiql-tab-button')?.innerText === 'Follow'")
        await page.evaluate(RUN)
        assert '"rpm": 1500' in await ingest_until_shown(admin, page)
        kept = await page.evaluate("JSON.stringify({...localStorage, ...sessionStorage}) + document.cookie")
        assert key not in kept


async def test_the_page_may_load_and_send_nothing_anywhere_else(service: ServiceClient, scripts: None) -> None:
    for path in ("/graphql", *(f"/graphql/graphiql/{name}" for name in ("page.js", "page.css", "graphiql.min.js"))):
        response = await service.http.get(path, headers=HTML)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(
            policy
        )
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["graphiql.LICENSE", "scripts.py", "..%2fschema.py", "__init__.py", "nothing.js"])
async def test_nothing_else_of_its_folder_is_served(service: ServiceClient, name: str) -> None:
    assert (await service.http.get(f"/graphql/graphiql/{name}")).status_code == 404


async def test_without_its_scripts_the_page_says_what_to_do(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.graphql.graphiql.page.are_there", lambda: False)
    response = await service.http.get("/graphql", headers=HTML)
    assert response.status_code == 404
    message = "GraphiQL's scripts are not here: run invoke graphiql where AurumAI is installed."
    assert response.json() == {"errors": [{"message": message, "extensions": {"code": "NOT_FOUND"}}]}


SCHEMA = "{ __schema { queryType { name } } }"
TYPE = '{ __type(name: "Machine") { name } }'


@pytest.mark.parametrize(
    ("settings", "page", "introspection"),
    [
        ({}, True, True),
        (PRODUCTION, False, False),
        ({**PRODUCTION, "AURUM_GRAPHIQL": "true"}, True, False),
        ({**PRODUCTION, "AURUM_GRAPHQL_INTROSPECTION": "true"}, False, True),
        ({"AURUM_GRAPHIQL": "false", "AURUM_GRAPHQL_INTROSPECTION": "false"}, False, False),
    ],
)
async def test_the_page_and_the_schema_are_for_development_unless_a_setting_says_otherwise(
    database_url: str,
    connection: asyncpg.Connection[asyncpg.Record],
    scripts: None,
    settings: dict[str, str],
    page: bool,
    introspection: bool,
) -> None:
    key = await make(connection, Role.VIEWER)
    async with run_service(database_url, **settings) as opened, ServiceClient(opened.url, key) as service:
        # The page is for anybody; what it sends isn't.
        assert ((await opened.http.get("/graphql", headers=HTML)).status_code == 200) is page
        assert ((await opened.http.get("/graphql/graphiql/page.js")).status_code == 200) is page
        for document in (SCHEMA, TYPE, f"{{ fleet {{ live }} ...A }} fragment A on Query {SCHEMA}"):
            assert ("errors" not in await service.post_graphql(document)) is introspection
        assert await service.ask("{ fleet { __typename } }") == {"fleet": {"__typename": "Fleet"}}
        error = await service.refuse("{ machinez { totalCount } }")
        assert ("Did you mean" in error["message"]) is introspection


def test_scripts_that_are_not_the_reviewed_ones_are_not_kept(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCRIPTS, "react@18.3.1", {"umd/react.production.min.js": ("react.production.min.js", "0" * 64)})
    with pytest.raises(ScriptsMissing, match="is not the file that was reviewed"):
        bring_scripts(tmp_path / "scripts")
    assert not (tmp_path / "scripts" / "react.production.min.js").exists()


async def test_two_may_bring_the_scripts_at_once(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Barrier(2, timeout=120)
    write_bytes = Path.write_bytes

    def meet(self: Path, content: bytes) -> int:
        size = write_bytes(self, content)
        written.wait()
        return size

    monkeypatch.setattr(Path, "write_bytes", meet)
    folder = tmp_path / "scripts"
    done = await asyncio.gather(*(asyncio.to_thread(bring_scripts, folder) for _ in range(2)))
    assert done == [True, True]
    assert {file.name for file in folder.iterdir()} == {file.name for file in FOLDER.iterdir()}


def test_scripts_that_are_there_are_not_brought_again(scripts: None) -> None:
    assert bring_scripts() is False
    assert {file.name for file in FOLDER.iterdir()} == {
        name for files in SCRIPTS.values() for name, _ in files.values()
    }
