"""A command in a pseudo-terminal of its own: keys go in, what the terminal would show comes out."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pyte
from commands import BIN, ROOT


class Terminal:
    """`xtuner ARGUMENTS` with stdin, stdout and stderr on a pseudo-terminal that Ctrl-C reaches it through."""

    def __init__(self, *arguments: object, size: tuple[int, int] = (200, 40), **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._process = subprocess.Popen(
            [str(BIN / "xtuner"), *map(str, arguments)],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._unread = ""
        self._is_closed = False

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        if not self._is_closed:
            os.close(self._ours)

    @property
    def attributes(self) -> list[object]:
        """How the terminal treats keys, see `termios.tcgetattr`."""
        return termios.tcgetattr(self._ours)

    def resize(self, height: int, width: int) -> None:
        """Give the terminal another size, as dragging its window does."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, timeout_s: float) -> str:
        """What was shown since; empty when nothing comes for so long, or at the end."""
        return self._read() if select.select([self._ours], [], [], timeout_s)[0] else ""

    @property
    def pid(self) -> int:
        """The process of the command."""
        return self._process.pid

    def type(self, keys: str) -> None:
        """Press `keys`; Enter is "\\r"."""
        os.write(self._ours, keys.encode())

    def wait_until_asleep(self) -> None:
        """Wait until the program waits for keys.

        A Ctrl-C between the echo of a key and the wait for the next one is seen with that next key only: CPython's
        readline looks for signals where its `select` is interrupted.
        """
        stat = Path(f"/proc/{self._process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)

    def read_until(self, text: str) -> str:
        """Everything shown from where the last call ended, up to and with `text`."""
        while text not in self._unread:
            part = self._read()
            assert part, f"the program ended before it showed {text!r}:\n{self._unread}"
            self._unread += part
        before, _, self._unread = self._unread.partition(text)
        return before + text

    def read_to_end(self) -> tuple[int, str]:
        """The exit code, and what was shown until the program ended."""
        while part := self._read():
            self._unread += part
        return self._process.wait(), self._unread

    def hang_up(self) -> int:
        """Close the terminal under the program; its exit code."""
        os.close(self._ours)
        self._is_closed = True
        return self._process.wait()

    def _read(self) -> str:
        """The next characters, at least one; empty at the end."""
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # Linux says so when the last process of the other end is gone
                return ""
            if not part or (text := self._decoder.decode(part)):
                return text if part else ""


class ScreenTerminal(Terminal):
    """The same, with a terminal emulator behind it: what a person would see there."""

    # Questions about the terminal and keyboard modes, which pyte takes for text; and a beginning that may become one.
    _UNKNOWN = re.compile(r"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1bP.*?\x1b\\\\|\x1b_.*?\x1b\\\\", re.DOTALL)
    _BEGUN = re.compile(r"\x1b(\[[<>=?]?[0-9;]*\$?|[P_][^\x1b]*)?$")

    def __init__(self, *arguments: object, size: tuple[int, int], **environment: str) -> None:
        super().__init__(*arguments, size=size, **environment)
        self._screen = pyte.Screen(*size)
        self._stream = pyte.Stream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The rows of the screen."""
        return list(self._screen.display)

    @property
    def text(self) -> str:
        """All that stands there, its rows joined: what is wrapped is found too."""
        return "".join("".join(self.lines).split())

    def wait_for(self, condition: Callable[[], bool], patience_s: float = 300.0) -> None:
        """Show what comes until `condition()`."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, "never came true; the screen:\n" + "\n".join(self.lines)
            if not select.select([self._ours], [], [], 0.1)[0]:
                continue
            part = self._read()
            if not part:  # the program has ended; what it left behind may still come true
                time.sleep(0.1)
            self._unread += part
            begun = self._BEGUN.search(self._unread)
            whole, self._unread = (self._unread[: begun.start()], begun[0]) if begun else (self._unread, "")
            self._stream.feed(self._UNKNOWN.sub("", whole))

    def wait_for_text(self, words: str) -> None:
        """Show what comes until `words` stand on the screen, wherever its rows break."""
        self.wait_for(lambda: "".join(words.split()) in self.text)
