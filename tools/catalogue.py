"""The Chinese catalogue of the interface: bring the .po up to date with the code, and compile it.

    python tools/catalogue.py

New messages get an empty translation, which tests/unit/test_catalogue.py refuses; those that nobody asks for any
more are dropped. GNU gettext is not needed; its tools read and write the same files.
"""

import ast
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).parents[1]
PO = ROOT / "xtuner/locale/zh_CN/LC_MESSAGES/xtuner.po"
# Where `_("...")` and `N_("...")` stand.
SOURCES = ("tui/wizard/*.py", "cli/wizard*.py", "launch/fit.py", "launch/devices.py")
_HEADER = """Project-Id-Version: xtuner
Language: zh_CN
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit
"""


def messages() -> dict[str, str]:
    """Every message, and the file that it stands in, in the order of the .po."""
    found: dict[str, str] = {}
    for pattern in SOURCES:
        for path in sorted((ROOT / "xtuner").glob(pattern)):
            for message in _literals(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(message, str(path.relative_to(ROOT)))
    for message, place in _declared():
        found.setdefault(message, place)
    found.pop("", None)
    return found


def _literals(tree: ast.Module) -> Iterator[str]:
    """The arguments of the calls of `_` and `N_` that are text."""
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "N_")
        if is_call and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


def _declared() -> Iterator[tuple[str, str]]:
    """What the wizard shows of tables that stand elsewhere."""
    from xtuner.data.health import PERCENTILES
    from xtuner.data.problems import ERRORS, WARNINGS
    from xtuner.hub.findings import REASON_CODES
    from xtuner.launch.estimate import COMPONENTS
    from xtuner.tui.wizard.answers import Source
    from xtuner.tui.wizard.fields import NO, YES, all_fields

    for field in all_fields().values():
        for message in (field.group, field.about, field.default_words, field.unit):
            yield message, f"{field.flag}"
    for message in (YES, NO, *get_args(Source)):
        yield message, "xtuner/tui/wizard"
    for message in (*PERCENTILES, *ERRORS.values(), *WARNINGS.values()):
        yield message, "xtuner/data"
    for message in COMPONENTS:
        yield message, "xtuner/launch/estimate.py"
    for message in REASON_CODES.values():
        yield message, "xtuner/hub/findings.py"


def read_po(path: Path) -> dict[str, str]:
    """Translations by message, the header under the empty one."""
    entries: dict[str, str] = {}
    parts: dict[str, str] = {}
    kind = ""
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith(("msgid ", "msgstr ")):
            kind, _, line = line.partition(" ")
            parts[kind] = ""
        if line.startswith('"'):
            parts[kind] += ast.literal_eval(line)
        elif not line and parts:
            assert parts["msgid"] not in entries, f"{parts['msgid']!r} stands twice in {path}"
            entries[parts["msgid"]], parts = parts["msgstr"], {}
    return entries


def write_po(path: Path, translations: dict[str, str]) -> None:
    """Write all `messages()`; those without a translation get an empty one."""
    blocks = [f'msgid ""\nmsgstr ""\n{_quoted_lines(_HEADER)}']
    blocks += [
        f"#: {place}\nmsgid {_quoted(message)}\nmsgstr {_quoted(translations.get(message, ''))}"
        for message, place in messages().items()
    ]
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _quoted_lines(text: str) -> str:
    return "\n".join(_quoted(line) for line in text.splitlines(keepends=True))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def mo_bytes(entries: dict[str, str]) -> bytes:
    """The compiled catalogue, sorted, without a hash table.

    Format: https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html
    """
    pairs = sorted((message.encode(), said.encode()) for message, said in entries.items() if said)
    start = 7 * 4  # after the header come the two tables, of a length and an offset each
    offset = start + 2 * 8 * len(pairs)
    tables: list[bytes] = []
    texts = b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<2I", len(pair[column]), offset + len(texts)))
            texts += pair[column] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), start, start + 8 * len(pairs), 0, offset)
    return header + b"".join(tables) + texts


if __name__ == "__main__":
    write_po(PO, read_po(PO) if PO.exists() else {})
    PO.with_suffix(".mo").write_bytes(mo_bytes(read_po(PO)))
