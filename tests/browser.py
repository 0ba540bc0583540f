"""A real Chromium without a window, told what to do over its own debugging protocol, that reaches nothing but this machine."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import websockets

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)


def find_browser() -> str | None:
    """The program, if one is installed."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Page:
    """One tab; `requested` are the addresses that it asked for, `complaints` what it wrote to its console."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._session: str | None = None
        self.requested: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        async for text in self._socket:
            message = msgspec.json.decode(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif message["method"] in {"Network.requestWillBeSent", "Network.webSocketCreated"}:
                event = message["params"]
                self.requested.append(event["request"]["url"] if "request" in event else event["url"])
            elif message["method"] == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"]["text"])

    async def call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send(msgspec.json.encode(message).decode())
        async with asyncio.timeout(60):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        return answer["result"]

    async def open(self, url: str) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """The value of an expression, once it is true."""
        look = f"const look = () => {{ const found = {expression}; found ? resolve(found) : setTimeout(look, 50) }}"
        try:
            return await self.evaluate(f"new Promise(resolve => {{ {look}; look() }})")
        except TimeoutError:
            raise AssertionError(f"never true: {expression}; the page wrote {self.complaints}") from None


@asynccontextmanager
async def open_page(program: str, url: str) -> AsyncIterator[Page]:
    """A tab that shows an address, in a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program, *OPTIONS, f"--user-data-dir={profile}", stderr=asyncio.subprocess.PIPE, cwd=Path(profile)
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(60):
                while b"DevTools listening on " not in (line := await process.stderr.readline()):
                    assert line, "the browser did not start"
            address = line.decode().rpartition(" ")[2].strip()
            async with websockets.connect(address, proxy=None, max_size=None, open_timeout=60) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                try:
                    await page.open(url)
                    yield page
                finally:
                    listening.cancel()
        finally:
            process.kill()
            await process.wait()
