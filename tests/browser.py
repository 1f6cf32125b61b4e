"""A headless Chromium, spoken to through its DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
_PATIENCE_S = 120.0


class Page:
    """The one page of a browser.

    Attributes:
        received: what came over its websockets, in one piece.
        requested: the addresses of all that it asked for.
        errors: what it was refused, and exceptions of its scripts.
    """

    def __init__(self, connection):
        self.received = b""
        self.requested = []
        self.errors = []
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers = {}

    async def call(self, method, **parameters):
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, _PATIENCE_S)

    async def press(self, key):
        """A key that writes a character."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, text=key if kind == "keyDown" else "", key=key)

    async def evaluate(self, expression):
        """The value of JavaScript."""
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return done["result"].get("value")

    async def picture(self):
        """The page as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def listen(self):
        """Take in what the browser tells, for as long as it runs."""
        async for message in self._connection:
            told = message.json()
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if "error" in told:
                    answer.set_exception(AssertionError(told["error"]))
                else:
                    answer.set_result(told["result"])
            elif told["method"] == "Network.webSocketFrameReceived":
                frame = told["params"]["response"]
                if frame["opcode"] == 2:
                    self.received += base64.b64decode(frame["payloadData"])
            elif told["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                if told["params"].get("entry", {}).get("level", "error") == "error":
                    self.errors.append(told["params"])
            elif told["method"] == "Network.requestWillBeSent":
                self.requested.append(told["params"]["request"]["url"])


@asynccontextmanager
async def open_page(address, size=(1400, 900)):
    """A browser of its own that shows `address`; it is ended with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"),
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        try:
            port = await _port_of(Path(profile))
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    [target] = [target for target in await response.json() if target["type"] == "page"]
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as connection:
                    page = Page(connection)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Network", "Runtime", "Log"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=address)
                    yield page
                listening.cancel()
        finally:
            process.kill()
            await process.wait()


async def _port_of(profile):
    """The port of the protocol, which the browser writes down when it listens."""
    file = profile / "DevToolsActivePort"
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while not (file.exists() and file.read_text()):
        assert asyncio.get_running_loop().time() < deadline, "the browser never began"
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
