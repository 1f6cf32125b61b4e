"""What lies under the browser of rows, without a screen: index, search, lines of so many cells."""

import gzip
import json
import random
from dataclasses import replace

import pytest
from rich.cells import cell_len

from xtuner.data.finder import iter_rows
from xtuner.data.problems import Problem
from xtuner.data.sources import describe_file
from xtuner.data.text_search import TextPattern
from xtuner.data.view import Piece, RowView, SequenceView
from xtuner.errors import DataError
from xtuner.tui.preview import index as index_module
from xtuner.tui.preview import layout as layout_module
from xtuner.tui.preview.index import HeldRows, OffsetIndex, open_index
from xtuner.tui.preview.layout import ViewOptions, is_trained, lay_out
from xtuner.tui.preview.scan import Matches, batched, find_error, search
from xtuner.tui.preview.shower import size_of
from xtuner.tui.preview.summary import summarise
from xtuner.tui.preview.wrap import TOKEN_END, Run, crop, crop_left, wrap


def never():
    return False


def build(path):
    index = open_index(describe_file(path))
    index.build(never, lambda: None)
    assert index.is_done
    return index


def text_of(line):
    return "".join(run.text for run in line)


PIECES = ["{}", '["ä中"]', "", " ", "\t \r", "\x0b", "\r", '{"a": 1}\r', " {}", "x" * 40, "\u2028", "\x85"]


@pytest.mark.parametrize("scan_bytes", [3, 4, 7, 64, 4096])
@pytest.mark.parametrize("seed", range(6))
def test_index_sees_the_rows_that_the_reader_sees(tmp_path, monkeypatch, scan_bytes, seed):
    monkeypatch.setattr(index_module, "SCAN_BYTES", scan_bytes)
    monkeypatch.setattr(index_module, "BLOCK_BYTES", 50)
    chance = random.Random(seed)
    text = "\n".join(chance.choices(PIECES, k=60)) + chance.choice(["", "\n", "\n\n", "\nlast"])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(chance.choice([b"", b"\xef\xbb\xbf"]) + b"x\n" + text.encode())
    expected = list(iter_rows(describe_file(path)))
    index = build(path)
    assert isinstance(index, OffsetIndex) and len(expected) > 10
    found = [index.read(row) for row in range(len(index))]
    assert [(row.number, row.line) for row in found] == [(row.number, row.line) for row in expected]
    assert [row.is_last for row in found][:-1] == [False] * (len(found) - 1)
    assert found[-1].is_last == (not expected[-1].line.endswith(b"\n"))
    numbers = [row.number for row in expected]
    for number in range(numbers[-1] + 3):
        assert index.row_at(number) == next((i for i, n in enumerate(numbers) if n >= number), len(numbers))
    blocks = list(index.blocks(3, len(index)))
    assert len(blocks) > 3 and [block.first for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    for block in blocks:
        assert block.row_at(0) == block.first and block.row_at(len(block.data) - 1) == block.stop - 1
    index.close()


def test_index_costs_eight_bytes_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" * 50_000)
    index = build(path)
    assert len(index) == 50_000 and index._lines.starts.itemsize == 8 and not index._lines._change_rows


def test_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" * 10)
    index = open_index(describe_file(path))
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="changed while it was read"):
        index.build(never, lambda: None)
    assert index.is_done and len(index) == 11


def test_other_kinds_are_held_and_the_limit_is_said(tmp_path):
    rows = [{"text": f"row {i}"} for i in range(700)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(f"\n{lines}".encode()))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    gz, array = build(tmp_path / "a.jsonl.gz"), build(tmp_path / "b.json")
    assert len(gz) == len(array) == 700 and not gz.is_limited
    assert (gz.number_of(0), gz.row_at(11)) == (2, 9)  # a blank line goes before
    assert (array.number_of(5), array.row_at(6), array.row_at(9999)) == (6, 5, 700)  # all on one line: by their place
    for index in (gz, array):
        assert [json.loads(index.read(row).line) for row in range(700)] == rows
        assert [row for step in search(index, "row 69", 300, never) for row in step[0]] == [*range(690, 700), 69]
    few = HeldRows(describe_file(tmp_path / "a.jsonl.gz"), max_rows=500)
    few.build(never, lambda: None)
    assert len(few) == 500 and few.is_limited and few.is_done


@pytest.mark.parametrize(
    ("text", "line", "is_there"),
    [
        ("Paris", "in PARIS.", True),
        ("Paris", "in Par is.", False),
        ("é", "\\u00C9t\\u00e9", True),
        ("中文", "\\u4e2d文", True),
        ("中文", "中 文", False),
        ("😀", "\\ud83d\\ude00", True),
        ('say "hi"', 'say \\"hi\\"', True),
        ("a/b", "a\\/b", True),
        ("a\\b", "a\\\\b", True),
        ("\\n", "line\\nend", False),  # the escape of a line end is no backslash in the text
        ("a.b", "axb", False),
        ("(", "f(x)", True),
        ("<b>", "\\u003cB\\u003e", True),
    ],
)
def test_text_is_found_as_it_reads_and_not_as_it_is_written(text, line, is_there):
    assert bool(list(TextPattern(text).places(line.encode()))) == is_there


def test_matches_never_skip_what_was_not_looked_at():
    chance = random.Random(0)
    for _ in range(200):
        size = chance.randrange(2, 30)
        truth = sorted(chance.sample(range(size), chance.randrange(0, size // 2 + 1)))
        origin = chance.randrange(size)
        matches = Matches("x", origin)
        order = [*range(origin, size), *range(origin)]
        for place, row in enumerate(order):
            matches.add(([row] if row in truth else [], row + 1, row < origin), place == size - 1)
            for begin in range(-1, size):
                for direction in (1, -1):
                    ahead = [m for m in truth if (m > begin if direction > 0 else m < begin)]
                    expected = (ahead or truth or [None])[0 if direction > 0 else -1]
                    assert matches.next(begin, direction=direction) in (None, expected)
                    if matches.is_done:
                        assert matches.next(begin, direction=direction) == expected
            if place == 0 and origin in truth:
                assert matches.next(origin - 1, direction=1) == origin  # at once, not when all is done
        assert len(matches) == len(truth) and all(m in matches for m in truth) and matches.num_scanned == size
        assert [matches.place_of(m) for m in truth] == list(range(1, len(truth) + 1))


def test_batches_keep_every_find_and_the_turn_at_the_end_of_the_file():
    steps = [([5], 6, False), ([7], 8, False), ([], 9, False), ([0], 1, True), ([2], 3, True)]
    sent = []
    batched(iter(steps), lambda step, is_done: sent.append((step, is_done)), never)
    assert [row for (rows, _, _), _ in sent for row in rows] == [5, 7, 0, 2]
    assert sent[0] == (([5], 6, False), False) and sent[-1][1]
    assert ([7], 9, False) in [step for step, _ in sent]


def test_rows_in_error_are_found_after_the_row_and_around(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": 1}\n{"text": "b"}\n{bad\n{"text": "c"}\n')
    index = build(path)

    def first_after(row, known=frozenset()):
        return next((step[0][0] for step in find_error(index, "text", row, known, never) if step[0]), None)

    assert [first_after(row) for row in range(5)] == [1, 3, 3, 1, 1]
    assert first_after(1, frozenset({2})) == 2


def test_summary_is_the_last_question_or_what_is_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    chat = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "x"}]
    chat += [{"role": "user", "content": "  second\n\n[b]\x1b"}, {"role": "assistant", "content": "y"}]
    path.write_text(json.dumps(chat) + "\n" + '{"messages": 3}\n' + json.dumps([*chat, *chat * 20_000]) + "\n")
    index = build(path)
    summary = summarise(index, 0, "messages")
    assert (summary.text, summary.turns, summary.error) == ("second [b]\\x1b", 2, "")
    assert summarise(index, 1, "messages").error == "WRONG_SHAPE"
    large = summarise(index, 2, "messages")
    assert "MiB" in large.text and large.turns is None and not large.error


@pytest.mark.parametrize("width", [4, 5, 11, 40])
def test_wrapped_lines_fit_and_lose_nothing(width):
    chance = random.Random(width)
    words = [
        "a",
        "word",
        "longer-than-most-lines-are",
        "中文",
        "，",
        "。",
        "e\u0301",
        "👍🏽",
        "❤\ufe0f",
        " ",
        "  ",
        TOKEN_END,
    ]
    for _ in range(300):
        line = [Run("".join(chance.choices(words, k=chance.randrange(6))), (str(i),)) for i in range(5)]
        parts = list(wrap(line, width))
        assert "".join(map(text_of, parts)) == text_of(line)
        assert all(cell_len(text_of(part)) <= width for part in parts)
        looks = [(char, run.kinds) for part in parts for run in part for char in run.text]
        assert looks == [(char, run.kinds) for run in line for char in run.text]


def test_lines_break_where_a_reader_expects_it():
    def broken(text, width):
        return [text_of(part) for part in wrap([Run(text)], width)]

    assert broken("the quick brown", 10) == ["the quick ", "brown"]
    assert broken("abcdefghijkl", 5) == ["abcde", "fghij", "kl"]
    assert broken("中文测试一", 4) == ["中文", "测试", "一"]
    assert broken("a 中文测试", 6) == ["a 中文", "测试"]  # not after the space
    assert broken("中文，好", 4) == ["中", "文，", "好"]  # no line begins with a comma
    assert broken("ein¦ wort¦ ja¦", 9) == ["ein¦ ", "wort¦ ja¦"]
    assert broken("", 5) == [""]


def test_crop_counts_cells():
    assert (
        crop("中文测试", 5) == "中文…" and crop("abc", 3) == "abc" and crop("abcd", 3) == "ab…" and crop("ab", 0) == ""
    )
    assert crop_left("/a/long/path", 6) == "…/path"


def piece(text, *, trained=False, special=False):
    return Piece(text, trained, special)


def sequence(*pieces, cut=None):
    return SequenceView(list(pieces), len(pieces), sum(p.is_trained for p in pieces), cut)


def test_each_sequence_has_a_rule_and_the_cut_too():
    first = sequence(piece("<s>", special=True), piece("ask"), piece("answer", trained=True))
    second = sequence(piece("ask"), piece("kept", trained=True), piece("\ngone", trained=True), cut=2)
    view = RowView("f:1", "[]", [("user", "ask")], [first, second])
    lines = lay_out(view, ViewOptions(), 40).lines
    texts = list(map(text_of, lines))
    assert texts[0].startswith("── sequence 1 of 2 ──") and texts[1] == "<s>askanswer"
    assert texts[3].startswith("── sequence 2 of 2 ──") and texts[4] == "askkept" and "cut here" in texts[5]
    assert "gone" in texts and [is_trained(line) for line in lines[:5]] == [False, True, False, False, True]
    assert not any(map(is_trained, lines[5:]))
    assert {cell_len(text) for text in texts if text.startswith("──")} == {38}
    assert (size_of(view).num_tokens, size_of(view).num_trained) == (5, 2)
    alone = lay_out(replace(view, sequences=[first]), ViewOptions(), 40).lines
    assert list(map(text_of, alone)) == ["<s>askanswer"]


def test_blank_lines_inside_trained_text_are_trained():
    view = RowView("f:1", "[]", [("user", "x")], [sequence(piece("a\n\nb\n", trained=True), piece("next"))])
    lines = lay_out(view, ViewOptions(), 40).lines
    assert [(text_of(line), is_trained(line)) for line in lines] == [
        ("a", True),
        ("", True),
        ("b", True),
        ("next", False),
    ]


def test_what_is_sought_is_marked_across_tokens():
    view = RowView("f:1", "[]", [("user", "x")], [sequence(piece("a nee"), piece("DLE", trained=True), piece(" b"))])
    for shows_tokens in (False, True):
        laid_out = lay_out(view, ViewOptions(shows_tokens=shows_tokens, sought="needle"), 40)
        marked = [run for line in laid_out.lines for run in line if "match" in run.kinds]
        assert [run.text for run in marked] == ["nee", "DLE"] and "trained" in marked[1].kinds
        assert laid_out.first_match == 0
    assert lay_out(view, ViewOptions(sought="haystack"), 40).first_match is None


def test_raw_is_pretty_where_json_is_clear_and_untouched_where_not():
    def raw(text):
        return "\n".join(map(text_of, lay_out(RowView("f:1", text), ViewOptions(shows_raw=True), 80).lines))

    assert raw('{"b":[1,"\\u4e2d"],"a":null}') == '{\n  "b": [\n    1,\n    "中"\n  ],\n  "a": null\n}'
    assert raw('{"a": 1, "a": 2}') == '{"a": 1, "a": 2}'
    assert raw("[1,") == "[1,"


def test_problems_stand_at_the_top_with_their_hint():
    problems = [Problem("EMPTY", "f:1: no text", "give it text"), Problem("NUL", "f:1: a NUL")]
    lines = lay_out(RowView("f:1", "{}", problems=problems), ViewOptions(), 80).lines
    assert [text_of(line) for line in lines[:4]] == [
        "✗ error EMPTY: f:1: no text",
        "  hint: give it text",
        "! warning NUL: f:1: a NUL",
        "",
    ]


def test_a_huge_row_is_cut_on_the_screen_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(layout_module, "MAX_CHARS", 1_000)
    view = RowView("f:1", "[]", [("user", "x" * 5_000)])
    texts = list(map(text_of, lay_out(view, ViewOptions(), 40).lines))
    assert sum(text.count("x") for text in texts) == 1_000 - len("user")
    assert "4,004 characters more" in "".join(texts)  # what does not fit is counted
