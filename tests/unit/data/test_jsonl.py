"""One line of JSON: what is refused, with which code, and that nothing else ever comes out."""

import gc
import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xtuner.data.jsonl import parse_line
from xtuner.data.problems import RowError

WHERE = "d.jsonl:7"
ROW = '[{"role": "user", "content": "é 你好 😀"}, {"role": "assistant", "content": "\\ud83d\\ude00 \\u00e9"}]'.encode()

# name -> (the line, its code, words of the message)
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "not JSON": (b"{oops}\n", "INVALID_JSON", "d.jsonl:7:2: "),
    "two values": (b'{"a": 1} {"b": 2}\n', "INVALID_JSON", "d.jsonl:7:10: invalid JSON: Extra data"),
    "column behind wide characters": ('["你好", oops]\n'.encode(), "INVALID_JSON", "d.jsonl:7:8: "),
    "single quotes": (b"{'a': 1}\n", "INVALID_JSON", "d.jsonl:7:2: "),
    "control character in a string": (b'["a\x01b"]\n', "INVALID_JSON", "control character"),
    "byte-order mark": (b"\xef\xbb\xbf[]\n", "INVALID_JSON", "d.jsonl:7:1: "),
    "UTF-16 without mark": ("[]\n".encode("utf-16-le"), "INVALID_JSON", "d.jsonl:7:2: "),
    "number of 5,000 digits": (b"[" + b"1" * 5000 + b"]\n", "INVALID_JSON", "digits"),
    "Latin-1": ('["Köln"]\n'.encode("latin-1"), "NOT_UTF8", "byte 4 of the line (0xf6)"),
    "surrogate as bytes": (b'["\xed\xa0\x80"]\n', "NOT_UTF8", "byte 3 of the line (0xed)"),
    "overlong form": (b'["\xc0\x80"]\n', "NOT_UTF8", "0xc0"),
    "NaN": (b'{"a": NaN}\n', "NOT_A_NUMBER", "NaN"),
    "Infinity": (b"[Infinity]\n", "NOT_A_NUMBER", "Infinity"),
    "minus Infinity": (b"[-Infinity]\n", "NOT_A_NUMBER", "-Infinity"),
    "a number that becomes infinite": (b"[1e999]\n", "NOT_A_NUMBER", "1e999"),
    "key twice": (b'{"role": 1, "content": 2, "role": 3}\n', "DUPLICATE_KEY", "'role' stands twice"),
    "key twice, deep inside": (b'[{"a": [{"b": 1, "b": 1}]}]\n', "DUPLICATE_KEY", "'b' stands twice"),
    "key twice, once escaped": (b'{"a": 1, "\\u0061": 2}\n', "DUPLICATE_KEY", "'a' stands twice"),
    "high surrogate alone": (b'["\\ud83d"]\n', "LONE_SURROGATE", "half of a surrogate pair"),
    "low surrogate alone": (b'["\\ude00"]\n', "LONE_SURROGATE", ""),
    "pair the wrong way round": (b'["\\ude00\\ud83d"]\n', "LONE_SURROGATE", ""),
    "surrogate in a key": (b'{"\\ud83d": 1}\n', "LONE_SURROGATE", ""),
    "depth 100,000": (b"[" * 100_000 + b"]" * 100_000 + b"\n", "TOO_DEEP", "nested too deeply"),
    "nothing": (b"\n", "INVALID_JSON", "d.jsonl:7:"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_does_not_say_the_same_to_every_reader_is_refused(case: str) -> None:
    line, code, words = REFUSED[case]
    with pytest.raises(RowError) as caught:
        parse_line(line, WHERE)
    assert caught.value.code == code and words in caught.value.message and caught.value.message.startswith(WHERE)
    assert caught.value.hint and caught.value.exit_code == 4


@pytest.mark.parametrize(
    "line",
    [
        ROW,
        b'["\xe2\x80\xa8 \xc2\x85 \\u2028"]\r\n',  # line separators of other standards may stand in strings
        b'["\\u0000 \\ufdd0 \\uffff"]\n',
        b' \t{"a": [1, -2.5e3, 1e-999, true, null]} \n',
        b"[" + b"9" * 4000 + b"]",
        b"[" * 200 + b"]" * 200,
    ],
)
def test_what_json_allows_is_read(line: bytes) -> None:
    assert parse_line(line, WHERE) == json.loads(line)


@pytest.mark.parametrize("depth", range(900, 1010, 2))
def test_no_depth_slips_between_reading_and_checking(depth: int) -> None:
    line = b'["\\u00e9",' + b"[" * depth + b"]" * depth + b"]"
    try:
        parse_line(line, WHERE)
    except RowError as error:
        assert error.code == "TOO_DEEP"


@pytest.mark.parametrize("end", range(1, len(ROW)))
def test_a_last_line_cut_at_any_byte_is_told_from_a_wrong_one(end: int) -> None:
    cut = ROW[:end]
    with pytest.raises(RowError) as caught:
        parse_line(cut, WHERE, is_last=True)
    assert caught.value.code == "CUT_LINE" and caught.value.message.startswith(WHERE)
    # The same bytes in the middle of a file, or with a line end, are no cut.
    for line, is_last in ((cut, False), (cut + b"\n", True)):
        with pytest.raises(RowError) as caught:
            parse_line(line, WHERE, is_last=is_last)
        assert caught.value.code in ("INVALID_JSON", "NOT_UTF8")


def test_a_whole_last_line_needs_no_line_end() -> None:
    assert parse_line(ROW, WHERE, is_last=True) == parse_line(ROW + b"\n", WHERE)


def test_a_long_key_or_value_does_not_fill_the_message() -> None:
    key = b'"' + b"k" * 100_000 + b'"'
    with pytest.raises(RowError) as caught:
        parse_line(b"{" + key + b": 1, " + key + b": 2}", WHERE)
    assert len(caught.value.message) < 300


def test_a_key_that_stands_twice_is_found_in_linear_time() -> None:
    def seconds(num_keys: int) -> float:
        gc.collect()
        line = ("{" + ",".join(f'"k{i}":0' for i in range(num_keys)) + f',"k{num_keys - 1}":1}}').encode()
        begun = time.process_time()
        with pytest.raises(RowError, match="stands twice"):
            parse_line(line, WHERE)
        return time.process_time() - begun

    few, many = (min(seconds(num_keys) for _ in range(3)) for num_keys in (1000, 16_000))
    assert many < 100 * few  # for 16 times the keys; looking at each pair of them would take 256 times as long


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5).filter(str.isprintable), inner),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES, st.booleans(), st.sampled_from([b"", b"\n", b"\r\n", b" "]))
def test_any_value_that_json_can_write_is_read_as_it_was(value: object, ascii_only: bool, end: bytes) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode() + end
    assert parse_line(line, WHERE) == value


@settings(max_examples=300)
@given(st.integers(0, len(ROW) - 1), st.binary(max_size=3), st.booleans())
@example(0, b"", True)
def test_a_row_with_any_damage_is_a_value_or_a_row_error(place: int, bytes_: bytes, is_last: bool) -> None:
    line = ROW[:place] + bytes_ + ROW[place + 1 :]
    try:
        parse_line(line, WHERE, is_last=is_last)
    except RowError as error:
        assert error.message.startswith(WHERE)
