"""Text of other programs, made safe for a terminal.

The result has no escape sequences and no control characters.

Run ids, log lines, stage names and error messages come from documents and events that anyone with a key may
write. A terminal acts on some of their characters (ECMA-48; xterm's OSC 52 writes to the clipboard), and
bidirectional controls show text in another order than it is stored (Unicode TR 36).
"""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequence: colours, cursor, erase
    r"|(?:\x1b[P\]X^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # string: title, clipboard, links
    r"|\x1b[ -/]*[0-Z\\^-~]"  # two characters: charset, reset, save cursor
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def terminal_text(text: str) -> str:
    """`text` without escape sequences and control characters; newlines and tabs stay.

    An unfinished sequence loses its control characters only, so it cannot hide the text after it.
    """
    if text.isprintable():
        return text
    without = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))
    return _SURROGATE.sub("\ufffd", without)


def one_line(text: str) -> str:
    """The same on one line: for a table's cell or a message."""
    if text.isprintable():
        return text
    return " ".join(terminal_text(text).split())
