"""The one sanitiser: strings from outside, made safe to show.

Terminals act on control characters wherever they come from: a log line can set the window title (OSC 0), write
to the clipboard (OSC 52) or clear the screen. `visible` turns every such character into a readable escape.
"""

import re

from xtuner.errors import XTunerError

# C0 controls but tab and newline, DEL, C1 controls, line and paragraph separators, and the bidi controls that
# make text read in another order than it is stored (CVE-2021-42574).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """`text` with control and bidi characters as escapes: ESC becomes `\\x1b`, U+202E becomes `\\u202e`.

    Tabs and newlines stay; lone surrogates (undecodable file names) become escapes too.
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _UNSAFE.sub(_escape, text)


def json_safe(document: str) -> str:
    """A JSON document with control and bidi characters as `\\uXXXX`; it still says the same.

    They can only stand inside its strings, where JSON has escaped those below U+0020 already.
    """
    document = document.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", document)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def describe_error(error: XTunerError) -> str:
    """`error: what`, then, after a blank line, `hint: the way out`; safe to print."""
    hint = f"\n\nhint: {error.hint}" if error.hint else ""
    return visible(f"error: {error.message}{hint}")
