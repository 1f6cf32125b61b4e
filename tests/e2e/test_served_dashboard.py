"""`xtuner monitor --serve`: who gets in, what a window sees, and that nothing of it is left."""

import asyncio
import io
import signal
import subprocess
from urllib.parse import urlsplit

import aiohttp
import browser
import psutil
import pyte
import pytest
from commands import BIN, ROOT
from monitor_runs import healthy_run
from PIL import Image
from processes import wait_for, wait_until_gone

_SIZE = (120, 36)


class Served:
    """The server, and its address."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [str(BIN / "xtuner"), "monitor", *map(str, arguments), "--serve"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.stderr.read()
        self.parts = urlsplit(self.address)

    @property
    def windows(self):
        """The processes of the windows that are open."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number=signal.SIGINT):
        """Its exit code, and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@pytest.fixture
def served(tmp_path):
    healthy_run(tmp_path / "work", num_ranks=3)
    served = Served(tmp_path / "work")
    yield served
    served.process.kill()
    served.process.communicate()


async def until(condition, patience_s=120.0):
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "never came true"
        await asyncio.sleep(0.05)


class Window:
    """A websocket as the page opens it, and what came over it."""

    def __init__(self, socket):
        self.socket = socket
        self._screen = pyte.Screen(*_SIZE)
        self._stream = pyte.ByteStream(self._screen)

    async def until_shown(self, *texts):
        while not all(text in "\n".join(self._screen.display) for text in texts):
            message = await asyncio.wait_for(self.socket.receive(), 120)
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), self._screen.display
            if message.type == aiohttp.WSMsgType.BINARY:
                self._stream.feed(message.data.replace(b"\x1b[?2026$p", b""))  # which pyte takes for text

    async def press(self, keys):
        await self.socket.send_json(["stdin", keys])


def test_who_gets_in(served):
    """Nothing answers without the whole address, to another name, or to a page from elsewhere."""
    token = served.parts.path.strip("/")
    root, here = f"http://{served.parts.netloc}", {"Origin": f"http://{served.parts.netloc}"}
    assert len(token) >= 43 and served.parts.hostname == "127.0.0.1"
    pages = [
        "/",
        "/ws",
        "/static/js/textual.js",
        "/download/x",
        f"/{token[:-1]}/",
        f"/{token}x/",
        "/%ff%00/",
        f"/?{token}",
    ]
    everything = [f"/{token}/", f"/{token}/static/js/textual.js"]

    async def steps():
        async with aiohttp.ClientSession() as session:

            async def status(path, **headers):
                async with session.get(root + path, headers=headers) as response:
                    return response.status

            assert [await status(path) for path in everything] == [200, 200]
            assert [await status(path) for path in pages] == [403] * len(pages)
            assert await status(f"/{token}/static/../../../../etc/passwd") in (403, 404)
            port = served.parts.port
            for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
                assert [await status(path, Host=host) for path in everything] == [403, 403], host
            for host in (f"localhost:{port}", "127.0.0.1:9999", "localhost"):  # the near end of a tunnel
                assert await status(f"/{token}/", Host=host) == 200
            for path, headers in ((f"/{token}/ws", {"Origin": "http://evil.example"}), ("/ws", here), ("/x/ws", here)):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(root + path, headers=headers)
                assert refused.value.status == 403
            async with session.get(served.address) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and response.headers["Referrer-Policy"] == "no-referrer"
                assert "googleapis" not in await response.text()

    asyncio.run(steps())
    assert not served.windows


def test_a_window_shows_the_run_writes_nothing_and_leaves_nothing(served, tmp_path):
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    async def steps():
        address = f"{served.address}ws?width={_SIZE[0]}&height={_SIZE[1]}"
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(address) as socket:
                window = Window(socket)
                await window.until_shown("RUNNING", "step 300/1,000", "⠤")
                await window.press("2")
                await window.until_shown("[2 Ranks]")
                await window.press("e")
                await window.until_shown("nothing is written from a browser")
                assert len(served.windows) == 1
                await window.press("q")
                async for message in socket:
                    assert message.type != aiohttp.WSMsgType.ERROR
                assert socket.closed
            await until(lambda: not served.windows)

            # A browser that vanishes while much is on its way to it, and two windows that the server closes.
            socket = await session.ws_connect(address)
            await Window(socket).until_shown("RUNNING")
            for _ in range(50):
                await socket.send_json(["stdin", "12345"])
            socket._response.connection.transport.abort()
            await until(lambda: not served.windows)
            sockets = [await session.ws_connect(address) for _ in range(2)]
            for socket in sockets:
                await Window(socket).until_shown("RUNNING")
            processes = served.windows
            assert len(processes) == 2
            ending = asyncio.to_thread(served.end)
            closed = [asyncio.create_task(socket.receive()) for socket in sockets]
            code, said = await ending
            assert code == 0 and "Ctrl-C ends it" in said and "Traceback" not in said, said
            for task in closed:
                task.cancel()
            return processes

    wait_until_gone(asyncio.run(steps()))
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_windows_end_with_a_server_that_is_killed(served):
    async def steps():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{served.address}ws") as socket:
            await Window(socket).until_shown("RUNNING")
            processes = served.windows
            served.process.kill()
            return processes

    processes = asyncio.run(steps())
    assert processes
    wait_until_gone(processes)


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")
def test_in_a_browser(served):
    async def steps():
        async with browser.open_page(served.address) as page:
            await until(lambda: b"step 300/" in page.received)
            await asyncio.sleep(1)
            pictures = [await page.picture()]
            await page.press("2")  # without a click before
            await until(lambda: b"2 Ranks]" in page.received)
            await asyncio.sleep(1)
            pictures.append(await page.picture())
            assert await page.evaluate("document.title") == f"{served.process.args[2]} - xtuner monitor"
            assert {urlsplit(url).netloc for url in page.requested if url != "data:,"} == {served.parts.netloc}
            assert not page.errors
            return pictures

    overview, ranks = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in asyncio.run(steps()))
    assert overview.size == ranks.size and overview.tobytes() != ranks.tobytes()
    for picture in (overview, ranks):
        assert len(picture.getcolors(maxcolors=2**24)) > 20
    wait_for(lambda: not served.windows)
