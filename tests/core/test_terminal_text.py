"""Foreign text on a terminal: whatever it holds, no control character and no escape sequence is left."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.terminal_text import one_line, terminal_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本語 🚀", "plain ünïcode 日本語 🚀"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;ZXZpbA==\x1b\\text", "text"),
        ("\x9d0;title\x9ctext", "text"),
        ("\x1bP+q\x1b\\text", "text"),
        ("\x1bcreset", "reset"),
        ("\x1b]0;never ended, text", "]0;never ended, text"),
        ("bell\x07 nul\x00 del\x7f c1\x85", "bell nul del c1"),
        ("10%\r20%", "10%20%"),
        ("txt.\u202egnp", "txt.gnp"),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_what_a_terminal_would_act_on_is_removed(text: str, shown: str) -> None:
    assert terminal_text(text) == shown


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[]0;m\x07\x9b\x9c\\\u202e\ud800")))
def test_nothing_that_acts_is_left_and_printable_text_is_kept(text: str) -> None:
    shown = terminal_text(text)
    kinds = {unicodedata.category(each) for each in shown if each not in "\n\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert terminal_text(shown) == shown
    if text.isprintable():
        assert shown == text


def test_one_line_has_no_line_breaks() -> None:
    assert one_line("a\r\n  b\tc") == "a b c"
