"""Lines by their place in the file, forwards, backwards and by number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run import logindex
from xtuner.run.logindex import LogIndex, lines_before, lines_from, parts_of
from xtuner.run.tail import TailBlock

texts = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")), max_size=40)


@given(texts, st.integers(0, 40), st.integers(1, 20))
def test_lines_are_those_of_the_file(tmp_path_factory, lines, number, count):
    path = tmp_path_factory.mktemp("index") / "log"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + b"half")
    places = [sum(len(line) + 1 for line in lines[:index]) for index in range(len(lines) + 1)]
    number = min(number, len(lines))
    decoded = [(place, line.decode("utf-8", "backslashreplace")) for place, line in zip(places, lines, strict=False)]
    assert lines_from(path, places[number], count) == decoded[number : number + count]
    assert lines_before(path, places[number], count) == decoded[max(0, number - count) : number]


@given(texts.filter(bool), st.data())
def test_numbers_and_places_agree(lines, data):
    data_bytes = b"".join(line + b"\n" for line in lines)
    cut = data.draw(st.integers(0, len(lines)))
    middle = len(b"".join(line + b"\n" for line in lines[:cut]))
    index = LogIndex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logindex, "_PART_BYTES", 16)
        index.add(parts_of(TailBlock(data_bytes[middle:], middle)))  # the newest part comes first
        index.add(parts_of(TailBlock(data_bytes[:middle], 0)))
    assert index.num_lines == len(lines) and index.end == len(data_bytes)
    for number in range(len(lines)):
        begin, num_skipped = index.place_of(number)
        place = len(b"".join(line + b"\n" for line in lines[:number]))
        assert data_bytes[begin:].split(b"\n")[num_skipped] == lines[number]
        assert index.number_at(place) + data_bytes[begin:place].count(b"\n") == number


def test_long_lines_are_found_backwards(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\n" + b"x" * 100_000 + b"\nb\n")
    assert [line.text[:1] for line in lines_before(path, path.stat().st_size, 3)] == ["a", "x", "b"]
