"""What a terminal would show: enough of one for what Textual writes."""

import re

from rich.cells import cell_len

_PART = re.compile(
    r"\x1b\[(?P<numbers>[?0-9;:<=>$]*)(?P<final>[@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1bP[^\x1b]*\x1b\\|"
    r"\x1b[()][0-9A-B]|\x1b[=>78cM]|(?P<control>[\r\n\b\x07\x0e\x0f])|(?P<text>[^\x00-\x1f\x7f]+)"
)
_UNFINISHED = re.compile(r"\x1b[^\x1b]{0,64}\Z")


class TerminalScreen:
    """Feed it what a program writes; `text` is what stands on the screen then."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.is_alternate = False
        self.unknown: list[str] = []  # raw bytes that are neither text nor a code that is known
        self._rest = ""
        self._clear()

    @property
    def lines(self) -> list[str]:
        return ["".join(row) for row in self._rows]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def feed(self, data: str) -> None:
        data = self._rest + data
        unfinished = _UNFINISHED.search(data)
        self._rest = ""
        place = 0
        while place < len(data):
            match = _PART.match(data, place)
            if match is None:
                if unfinished and place >= unfinished.start():
                    self._rest = data[place:]
                    return
                self.unknown.append(data[place])
                place += 1
                continue
            self._do(match)
            place = match.end()

    def _clear(self) -> None:
        self._rows = [[" "] * self.width for _ in range(self.height)]
        self._x = self._y = 0

    def _do(self, match: "re.Match[str]") -> None:
        if match["text"]:
            for character in match["text"]:
                self._put(character)
        elif match["control"]:
            if match["control"] == "\r":
                self._x = 0
            elif match["control"] == "\n":
                self._y = min(self._y + 1, self.height - 1)
        elif match["final"]:
            self._code(match["numbers"], match["final"])

    def _code(self, numbers: str, final: str) -> None:
        if numbers.startswith("?"):
            if "1049" in numbers:
                self.is_alternate = final == "h"
                self._clear()
            return
        values = [int(part) if part.isdigit() else 0 for part in numbers.split(";")]
        if final in "Hf":
            row, column = (values + [1])[:2] if len(values) > 1 else (values[0], 1)
            self._y, self._x = max(row, 1) - 1, max(column, 1) - 1
        elif final == "J" and values[0] == 2:
            self._rows = [[" "] * self.width for _ in range(self.height)]
        elif final == "K":
            self._rows[self._y][self._x :] = [" "] * (self.width - self._x)
        elif final in "ABCD":
            step = max(1, values[0])
            self._y += {"A": -step, "B": step}.get(final, 0)
            self._x += {"C": step, "D": -step}.get(final, 0)

    def _put(self, character: str) -> None:
        cells = cell_len(character)
        if 0 <= self._y < self.height and 0 <= self._x and self._x + cells <= self.width:
            self._rows[self._y][self._x] = character
            for offset in range(1, cells):
                self._rows[self._y][self._x + offset] = ""
        self._x += cells
