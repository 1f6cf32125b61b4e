"""`xtuner monitor --serve`: the dashboard in a browser of this machine, for who knows the address.

Each window of a browser has a process of its own (`served.py`), which textual-serve starts and whose
screen it carries over a websocket. Everything lies below a random part of the path; there is nothing else.
"""

import asyncio
import logging
import re
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template

from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.app_service import AppService
from textual_serve.server import Server

from xtuner.errors import EnvironmentFault
from xtuner.run.text import visible
from xtuner.tui.monitor.runs import RunList, newest_run

_HERE = Path(__file__).parent
LOOPBACK = "127.0.0.1"
# A page elsewhere can have its own name resolved to this machine (DNS rebinding), but not send another name. Any port:
# it may be another one at the near end of an SSH tunnel.
_HOSTS = {LOOPBACK, "localhost", "[::1]"}
_PORT = re.compile(r":[0-9]+$")
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOKEN_BYTES = 32
_FONT_SIZE = 14
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # or the address would leak through it
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class _Sessions(Server):
    """textual-serve's websockets and processes; the pages and the way in are ours."""

    def __init__(self, command: Sequence[str]) -> None:
        # `exec`: the shell that textual-serve starts it with would hide the end of this process from it.
        super().__init__(f"exec {shlex.join(command)}")
        self._sockets: set[web.WebSocketResponse] = set()

    async def _process_messages(self, websocket: web.WebSocketResponse, app_service: AppService) -> None:
        self._sockets.add(websocket)
        try:
            await super()._process_messages(websocket, app_service)
        finally:
            self._sockets.discard(websocket)

    async def end(self, app: web.Application) -> None:
        """Close all windows, which ends their processes."""
        for websocket in set(self._sockets):
            await websocket.close(code=WSCloseCode.GOING_AWAY)


def make_app(command: Sequence[str], title: str, token: str) -> web.Application:
    """The server's application: page, websocket and static files, below `/TOKEN/`.

    Args:
        command: shows the dashboard of one window.
        title: of the page.
        token: who does not send it as the first part of the path is refused.
    """
    sessions = _Sessions(command)
    page = Template((_HERE / "page.html").read_text(encoding="utf-8"))

    async def show_page(request: web.Request) -> web.Response:
        html = page.substitute(
            title=escape(visible(title)),
            static=f"/{token}/static",
            websocket=f"ws://{escape(request.host)}/{token}/ws",
            font_size=_FONT_SIZE,
        )
        return web.Response(text=html, content_type="text/html")

    async def show_script(request: web.Request) -> web.FileResponse:
        return web.FileResponse(_HERE / "focus.js")

    app = web.Application(middlewares=[_guard(token)])
    app.add_routes(
        [
            web.get(f"/{token}/", show_page),
            web.get(f"/{token}/focus.js", show_script),
            web.get(f"/{token}/ws", sessions.handle_websocket),
            web.static(f"/{token}/static", sessions.statics_path),
        ]
    )
    app.on_shutdown.append(sessions.end)
    return app


def _guard(token: str) -> Middleware:
    """Refuses whoever does not know the token, or was sent here by a page from elsewhere."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.path.split("/")[1].encode("utf-8", "surrogatepass")
        is_here = _PORT.sub("", request.host) in _HOSTS
        is_from_here = request.headers.get("Origin", f"http://{request.host}") == f"http://{request.host}"
        if not (secrets.compare_digest(given, token.encode()) and is_here and is_from_here):
            raise web.HTTPForbidden(text="403: this address is not complete, or not from this machine\n")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    return guard


def serve(path: Path, compared: Sequence[Path], port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the dashboard of the newest run behind `path` until this process is asked to end.

    Args:
        path: a work dir, a run, or logs.
        compared: the newest run behind each is drawn beside it.
        port: of the loopback; 0 for a free one.
        on_ready: gets the address.

    Raises:
        UsageError: a path leads to no run.
        EnvironmentFault: a path cannot be read, or the port is taken.
    """
    RunList(path)  # what is wrong with a path is said here, and not in a browser
    for other in compared:
        newest_run(other)
    # By its path: with -m, modules in the working directory would come before ours.
    command = [sys.executable, str(_HERE / "served.py"), *map(str, (path, *compared))]
    logging.getLogger("textual-serve").addHandler(logging.NullHandler())
    with _listen(port) as listener:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        address = f"http://{LOOPBACK}:{listener.getsockname()[1]}/{token}/"
        asyncio.run(_serve(make_app(command, f"{path} - xtuner monitor", token), listener, lambda: on_ready(address)))


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise EnvironmentFault(
            f"port {port} of {LOOPBACK} cannot be served on: {error.strerror}",
            hint="leave out --serve-port for a free one",
        ) from None


async def _serve(app: web.Application, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    is_over = asyncio.Event()
    heard = (number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN)  # as of nohup
    for number in heard:
        asyncio.get_running_loop().add_signal_handler(number, is_over.set)
    runner = web.AppRunner(app, access_log=None)  # which would hold the token
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        on_ready()
        await is_over.wait()
    finally:
        await runner.cleanup()
