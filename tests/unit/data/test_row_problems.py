"""The fault table of data files: each fault gets its code, file, line and exit code, and none is passed over.

The names of the cases are those of the table: D1 invalid JSON, D2 byte-order mark, D3 line ends and blank lines, D4
not UTF-8, D5 huge line, D6 cut last line, D7 JSON array, D8 packed and foreign files, D9 roles and turns, D10 content,
D11 tool calls, D12 nothing trained, D13 values that are no JSON, D14 special tokens as text, D15 the template refuses.
D16 (fewer rows than a step takes) is in test_order.py; D17 and D18 (data that changes) in test_prepare.py.
"""

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import zstandard

from xtuner.data.counts import DataCounts
from xtuner.data.lines import LineReader
from xtuner.data.options import RowOptions
from xtuner.data.prepare import settle_format
from xtuner.data.problems import ERRORS, WARNINGS, ProblemLog, RowError, merge_logs
from xtuner.data.rows import PipelineSpec, RowPipeline
from xtuner.data.sources import describe_file
from xtuner.errors import DataError

# Shows what the plain template leaves out: tools, tool calls, reasoning.
TOOLS_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = json.dumps([USER, REPLY]).encode() + b"\n"


def _row(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": messages, **more} if more else messages).encode() + b"\n"


def _calls(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


CALL = {"id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}


@dataclass(frozen=True)
class Fault:
    """A file, what is found in it and where; `code` is None for what concerns the whole file."""

    content: bytes
    code: str | None
    line: int | None = None
    words: str = ""
    template: str = tiny_models.CHATML
    options: RowOptions = field(default_factory=RowOptions)


def _third(bad: bytes, code: str, words: str = "", **more: Any) -> Fault:
    """The bad row stands on line 3, between good ones and behind a blank line."""
    return Fault(GOOD + b"\n" + bad + GOOD, code, 3, words, **more)


FAULTS: dict[str, Fault] = {
    "D1 invalid JSON": Fault(GOOD * 3 + b"{oops\n" + GOOD * 6, "INVALID_JSON", 4, "d.jsonl:4:2: invalid JSON"),
    "D1 two values on a line": _third(b"[] []\n", "INVALID_JSON", ":4: "),
    "D4 one Latin-1 byte": Fault(GOOD * 6 + '[{"role": "ö"}]\n'.encode("latin-1"), "NOT_UTF8", 7, "0xf6"),
    "D4 UTF-16": Fault(GOOD.decode().encode("utf-16"), None, None, "UTF-16 text"),
    "D6 cut": Fault(GOOD * 2 + GOOD[:-5], "CUT_LINE", 3, "ends inside this line"),
    "D7 array cut": Fault(b"[\n" + GOOD + b",\n" + GOOD[:-5], None, 4, "invalid JSON in the array"),
    "D7 one indented object": Fault(json.dumps({"messages": [USER, REPLY]}, indent=1).encode(), "INVALID_JSON", 1),
    "D8 cut gzip": Fault(gzip.compress(GOOD * 9)[:-9], None, 1, "stream breaks off"),
    "D8 cut zstd": Fault(zstandard.compress(GOOD) + zstandard.compress(GOOD * 9)[:-5], None, 2, "stream breaks off"),
    "D8 zip": Fault(b"PK\x03\x04", None, None, "a zip archive"),
    "D8 xz": Fault(b"\xfd7zXZ\x00", None, None, "an xz file"),
    "D8 bzip2": Fault(b"BZh9", None, None, "a bzip2 file"),
    "D8 empty": Fault(b"", None, None, "is empty"),
    "D9 no messages": _third(b"[]\n", "EMPTY"),
    "D9 unknown role": _third(_row({**USER, "role": "human"}, REPLY), "UNKNOWN_ROLE", "message 0 has the role 'human'"),
    "D9 no assistant": _third(_row(USER), "NO_REPLY", "no assistant message"),
    "D9 two system messages": _third(_row(SYSTEM, SYSTEM, USER, REPLY), "SEVERAL_SYSTEM", "2 system messages"),
    "D9 assistant first": _third(_row(SYSTEM, REPLY, USER, REPLY), "ASSISTANT_FIRST", "speaks first"),
    "D9 two users in a row": _third(_row(USER, USER, REPLY), "SAME_ROLE_TWICE", "two user messages"),
    "D9 another shape": _third(b'{"text": "x"}\n', "WRONG_SHAPE", "format messages"),
    "D10 content null": _third(_row(USER, {**REPLY, "content": None}), "BAD_CONTENT", "message 1: `content` is null"),
    "D10 content a number": _third(_row({**USER, "content": 5}, REPLY), "BAD_CONTENT", "message 0"),
    "D10 an image": _third(_row({**USER, "content": [{"type": "image_url"}]}, REPLY), "HAS_IMAGE", "image_url"),
    "D10 images of the row": _third(_row(USER, REPLY, images=["a.png"]), "HAS_IMAGE", "`images`"),
    "D11 arguments that are no JSON": _third(
        _row(USER, _calls({"function": {"name": "add", "arguments": "{a: 1"}})), "BAD_TOOL_CALL", "1: tool call 0"
    ),
    "D11 a result of no call": _third(
        _row(USER, _calls(CALL), {"role": "tool", "content": "2", "tool_call_id": "c2"}, REPLY),
        "TOOL_ID_UNMATCHED",
        "'c2'",
        template=TOOLS_TEMPLATE,
    ),
    "D11 half a pair inside arguments": _third(
        _row(USER, _calls({"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}})),
        "BAD_TOOL_CALL",
        template=TOOLS_TEMPLATE,
    ),
    "D11 calls that the template does not show": _third(
        _row(USER, {**REPLY, "reasoning_content": "Polite."}), "NOT_SHOWN", "message 1: its reasoning"
    ),
    "D12 cut before the reply": _third(
        _row({**USER, "content": "word " * 90}, REPLY), "NO_TARGET", "no trained token", options=RowOptions(60)
    ),
    "D12 no message is trained": _third(_row(USER, {**REPLY, "loss": False}), "NO_REPLY"),
    "D12 too long": _third(
        _row(USER, {**REPLY, "content": "x " * 90}), "TOO_LONG", "the limit is 60", options=RowOptions(60, "error")
    ),
    "D13 key twice": _third(b'[{"role": "user", "role": "user", "content": ""}]\n', "DUPLICATE_KEY", "'role'"),
    "D13 NaN": _third(b'{"messages": [], "score": NaN}\n', "NOT_A_NUMBER", "NaN"),
    "D13 infinite": _third(b'{"messages": [], "score": 1e999}\n', "NOT_A_NUMBER", "1e999"),
    "D13 half a surrogate pair": _third(_row({**USER, "content": "\ud83d"}, REPLY), "LONE_SURROGATE"),
    "D13 NUL": _third(_row({**USER, "content": "a\0b"}, REPLY), "NUL", "message 0"),
    "D13 depth": _third(b"[" * 10_000 + b"]" * 10_000 + b"\n", "TOO_DEEP"),
    "D14 special tokens as text": _third(
        _row({**USER, "content": "x<|im_end|>\n<|im_start|>assistant"}, REPLY), "SPECIAL_IN_TEXT", "message 0 (user)"
    ),
    "D14 special tokens in a reply": _third(_row(USER, {**REPLY, "content": "a<|endoftext|>"}), "SPECIAL_IN_TEXT", "1"),
    "D15 the template's own words": Fault(
        GOOD, "TEMPLATE_REFUSED", 1, "roles must alternate", "{{ raise_exception('roles must alternate') }}"
    ),
    "D15 a broken template": Fault(GOOD, "TEMPLATE_REFUSED", 1, "", "{% for %}"),
    "D15 calls itself": Fault(
        GOOD, "TEMPLATE_REFUSED", 1, "without end", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    ),
    "D15 reaches for the machine": Fault(
        GOOD, "TEMPLATE_REFUSED", 1, "unsafe", "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    ),
    "D15 changes the messages": Fault(GOOD, "TEMPLATE_REFUSED", 1, "unsafe", "{{ messages.append(1) }}"),
    "D15 a range beyond the sandbox": Fault(
        GOOD, "TEMPLATE_REFUSED", 1, "Range too big", "{% for i in range(10**9) %}{% endfor %}"
    ),
    "D15 loops nested too deeply": Fault(
        GOOD, "TEMPLATE_REFUSED", 1, "", "{% for i in [1] %}" * 25 + "x" + "{% endfor %}" * 25
    ),
    "D15 writes half a surrogate pair": Fault(GOOD, "TEMPLATE_REFUSED", 1, "", "{{ '\\ud800' }}" + tiny_models.CHATML),
    "D15 a reply that cannot be proved": Fault(
        GOOD, "MASK_UNPROVED", 1, "", tiny_models.CHATML.replace("assistant\n", "assistant\nSure:")
    ),
}  # fmt: skip

# What is accepted: the rows are those of the plain file, and what was odd is said.
ACCEPTED: dict[str, tuple[bytes, list[str]]] = {
    "D2 byte-order mark": (b"\xef\xbb\xbf" + GOOD * 2, ["a byte-order mark"]),
    "D3 CRLF and blank lines": (
        GOOD[:-1] + b"\r\n\r\n\n" + GOOD,
        ["2 blank lines skipped", "2 lines end in CRLF"],
    ),
    "D6 no line end at the end": ((GOOD * 2)[:-1], []),
    "D7 array": (json.dumps([[USER, REPLY]] * 2).encode(), []),
    "D7 indented array": (json.dumps([[USER, REPLY]] * 2, indent=2).encode(), []),
    "D8 gzip": (gzip.compress(GOOD * 2), []),
    "D8 zstd": (zstandard.compress(GOOD * 2), []),
    "D10 parts of text": (
        _row({**USER, "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, REPLY) + GOOD,
        [],
    ),
}


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.write_tokenizer(directory)
    return directory


@dataclass(frozen=True)
class Found:
    problems: ProblemLog
    counts: DataCounts
    ids: list[int]
    said: list[str]


_pipeline = lru_cache(maxsize=1)(RowPipeline)


def _examine(path: Path, spec: PipelineSpec) -> Found:
    """All rows of a file, in this process."""
    pipeline, reader = _pipeline(spec), LineReader(describe_file(path))
    chunks = list(reader.chunks())
    format = settle_format(reader.file, chunks[0])
    results = [pipeline.process(chunk, path, format) for chunk in chunks]
    counts = DataCounts()
    for result in results:
        counts.add(result.counts)
    ids = [token for result in results for token in result.ids.tolist()]
    return Found(merge_logs(result.problems for result in results), counts, ids, reader.notes.sentences())


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_has_its_code_file_line_and_exit_code(case: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    fault, path = FAULTS[case], tmp_path / "d.jsonl"
    path.write_bytes(fault.content)
    (tmp_path / "t.jinja").write_text(fault.template)
    try:
        found = _examine(path, PipelineSpec(tokenizer_dir, tmp_path / "t.jinja", fault.options))
    except DataError as error:  # of the whole file, or of its first row, whose shape the file has
        code, message, hint = getattr(error, "code", None), error.message, error.hint
        assert error.exit_code == 4
    else:
        assert fault.code is not None and found.problems.counts == {fault.code: 1}, found.problems.examples
        [problem] = found.problems.examples[fault.code]
        code, message, hint = problem.code, problem.message, problem.hint
        if problem.is_error:
            with pytest.raises(DataError) as caught:
                found.problems.raise_errors(is_whole_file=True)
            assert caught.value.exit_code == 4 and caught.value.message == message
        else:
            hint = "a warning needs none"
            found.problems.raise_errors(is_whole_file=True)
        assert found.counts.rows_in_error == problem.is_error
    assert code == fault.code and fault.words in message and hint
    assert message.startswith(str(path) if fault.line is None else f"{path}:{fault.line}:")
    assert "Traceback" not in message and len(message) < 1000


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_accepted_gives_the_same_tokens_and_is_said(case: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    content, said = ACCEPTED[case]
    (tmp_path / "plain.jsonl").write_bytes(GOOD * 2)
    (tmp_path / "odd.jsonl").write_bytes(content)
    plain = _examine(tmp_path / "plain.jsonl", PipelineSpec(tokenizer_dir))
    odd = _examine(tmp_path / "odd.jsonl", PipelineSpec(tokenizer_dir))
    assert odd.ids == plain.ids and odd.counts == plain.counts and not odd.problems.counts and odd.said == said


def test_the_table_covers_every_code() -> None:
    elsewhere = {"LINE_TOO_LONG", "BAD_MESSAGE", "BAD_LOSS", "DUPLICATE_ROW"}  # test_lines, test_formats, health report
    assert {fault.code for fault in FAULTS.values()} - {None} | elsewhere == ERRORS.keys() | WARNINGS.keys()


@pytest.mark.parametrize("num_good", [0, 2])
@pytest.mark.parametrize(
    "last",
    [
        json.dumps([USER, {**REPLY, "content": "é 你好 😀 \\ "}], ensure_ascii=False).encode(),
        json.dumps({"messages": [USER, {**REPLY, "content": "é 你好 😀"}], "tools": None}).encode(),
    ],
    ids=["list", "object"],
)
def test_the_last_row_cut_at_any_byte_is_always_reported(
    last: bytes, num_good: int, tokenizer_dir: Path, tmp_path: Path
) -> None:
    path, spec = tmp_path / "d.jsonl", PipelineSpec(tokenizer_dir)
    for end in range(1, len(last)):
        path.write_bytes(GOOD * num_good + last[:end])
        try:
            found = _examine(path, spec).problems.first_error
        except RowError as error:
            found = error
        assert found is not None and found.code == "CUT_LINE", (end, found)
        assert found.message.startswith(f"{path}:{num_good + 1}:") and found.hint
    path.write_bytes(GOOD * num_good + last)
    assert not _examine(path, spec).problems.counts


def test_a_line_of_a_gigabyte_cannot_take_the_machine_down(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(GOOD)
    with path.open("r+b") as file:
        file.truncate(2**30)  # zeros without a line end, and without blocks on the disk
    # Not `ru_maxrss`, which a program inherits from the process that started it.
    code = f"""
import re
from pathlib import Path
from xtuner.data.lines import LineReader
from xtuner.data.problems import RowError
from xtuner.data.sources import describe_file
try:
    print(sum(len(chunk.lines) for chunk in LineReader(describe_file(Path({str(path)!r}))).chunks()), "rows")
except RowError as error:
    print(error.code, error.exit_code, error.message)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    said, peak_mib = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == f"LINE_TOO_LONG 4 {path}:2: the line is longer than 64 MiB" and int(peak_mib) < 400


def test_errors_are_counted_and_the_first_is_shown_with_the_others(tokenizer_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(GOOD + b"{oops\n" * 5 + b"[]\n" + _row(USER) * 2 + GOOD[:-4])
    found = _examine(path, PipelineSpec(tokenizer_dir))
    assert found.problems.counts == {"INVALID_JSON": 5, "EMPTY": 1, "NO_REPLY": 2, "CUT_LINE": 1}
    assert [len(kept) for kept in found.problems.examples.values()] == [3, 1, 2, 1]
    assert found.problems.num_errors == found.counts.rows_in_error == 7 and found.problems.num_warnings == 2
    with pytest.raises(DataError) as caught:
        found.problems.raise_errors(is_whole_file=True)
    first, others = caught.value.message.splitlines()
    assert first.startswith(f"{path}:2:2:")
    assert others == "and 6 more rows in error: CUT_LINE 1, EMPTY 1, INVALID_JSON 4 (xtuner preview lists them)"


def test_a_log_comes_back_from_json_as_it_was(tokenizer_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(GOOD + _row(USER) * 5 + _row(USER, USER, REPLY))
    log = _examine(path, PipelineSpec(tokenizer_dir)).problems
    again = ProblemLog.from_json(json.loads(json.dumps(log.to_json())))
    assert again.counts == log.counts == {"NO_REPLY": 5, "SAME_ROLE_TWICE": 1} and again.examples == log.examples
