"""`xtuner preview`: data as the model sees it, and a verdict on its health."""

import difflib
import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from xtuner.cli import console
from xtuner.data.options import FormatName, MaskPolicy, Overlong, RowOptions, SourceSpec
from xtuner.errors import DataError, UsageError

if TYPE_CHECKING:
    from xtuner.data.finder import RawRow
    from xtuner.data.health import Health
    from xtuner.data.pool import WorkerPool
    from xtuner.data.sources import DataFile
    from xtuner.data.view import RowView

_MAX_FOUND = 20
_FORMATS, _POLICIES, _OVERLONG = (f"[{'|'.join(get_args(kind))}]" for kind in (FormatName, MaskPolicy, Overlong))


def command(
    data: list[str] = typer.Argument(..., metavar="DATA", help="Files of chats, directories or globs."),
    model: Path | None = typer.Option(
        None, metavar="DIR", help="Show rows with the tokenizer and chat template of this model directory."
    ),
    num_samples: int = typer.Option(5, "-n", min=0, metavar="ROWS", help="Rows to show before the report."),
    row: int | None = typer.Option(None, min=1, metavar="LINE", help="Show the row on this line alone."),
    search: str | None = typer.Option(
        None, metavar="TEXT", help=f"Show the first {_MAX_FOUND} rows that hold this text."
    ),
    tokens: bool = typer.Option(False, "--tokens", help="Mark where each token ends."),
    interactive: bool = typer.Option(False, "-i", "--interactive", help="Browse the rows on the whole screen."),
    json: bool = typer.Option(False, "--json", help="Print samples and report as JSON."),
    strict: bool = typer.Option(False, "--strict", help="Exit with 4 on warnings too."),
    all_rows: bool = typer.Option(False, "--all", help="Examine every row of large data, not a sample."),
    dataset_format: FormatName = typer.Option("auto", help="Shape of the rows.", metavar=_FORMATS),
    chat_template: Path | None = typer.Option(None, metavar="FILE", help="Show chats with this Jinja file instead."),
    mask_policy: MaskPolicy = typer.Option("all-assistant", help="Which text is trained.", metavar=_POLICIES),
    max_length: int = typer.Option(4096, min=2, metavar="TOKENS", help="Longest row."),
    overlong: Overlong = typer.Option("truncate", help="What becomes of longer rows.", metavar=_OVERLONG),
    pack_max_length: int = typer.Option(4096, min=2, metavar="TOKENS", help="Length of a pack, for the forecast."),
    global_batch_size: int = typer.Option(1, min=1, metavar="PACKS", help="Packs in a step, for the forecast."),
    num_data_workers: int | None = typer.Option(None, min=1, metavar="PROCESSES", help="Processes that tokenise."),
) -> None:
    """Show data as the model sees it, trained text marked, and report the health of all of it.

    Exit code 4 when rows are in error (with --strict, on warnings too): a gate for scripts.

    \b
    Example:
      xtuner preview chats.jsonl --model Qwen3-0.6B
      xtuner preview chats.jsonl --model Qwen3-0.6B --search "refund" --tokens
    """
    from xtuner.data.rows import PipelineSpec
    from xtuner.data.sources import find_files

    options = RowOptions(min(max_length, pack_max_length), overlong, mask_policy)
    spec = PipelineSpec(_tokenizer_dir(model), chat_template, options, wants_profile=True) if model else None
    files = find_files([SourceSpec(path, format=dataset_format) for path in data])
    if interactive:
        _browse(files, spec)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(_pool(spec, files, num_data_workers)) if spec else None
        if row is not None or search is not None:
            shown = list(_show_rows(_find(files, row, search), pool, as_json=json, tokens=tokens))
            if json:
                console.data_json({"samples": shown})
            errors = any(problem["severity"] == "error" for view in shown for problem in view["problems"])
            raise typer.Exit(DataError.exit_code if errors else 0)
        samples = list(_show_rows(_first_rows(files, num_samples), pool, as_json=json, tokens=tokens))
        health = _examine(files, pool, reads_all=all_rows)
    ok = _report(health, samples, model, spec, pack_max_length, global_batch_size, as_json=json, strict=strict)
    raise typer.Exit(0 if ok else DataError.exit_code)


def _tokenizer_dir(model: Path) -> Path:
    """The directory itself where it has a tokenizer; otherwise `check-model` says what is wrong with it."""
    from xtuner.hub.model_dir import require_model

    if not (model / "tokenizer.json").is_file():
        require_model(model, needs_chat_template=False)
    return model


@contextmanager
def _pool(spec: Any, files: "list[DataFile]", num_workers: int | None) -> "Iterator[WorkerPool]":
    from xtuner.data.pool import WorkerPool
    from xtuner.data.prepare import count_workers

    with WorkerPool(spec, count_workers(num_workers, sum(file.state.size for file in files))) as pool:
        yield pool


def _first_rows(files: "list[DataFile]", number: int) -> "Iterator[tuple[DataFile, RawRow]]":
    from xtuner.data.finder import iter_rows

    return islice(((file, row) for file in files for row in iter_rows(file)), number)


def _find(files: "list[DataFile]", line: int | None, text: str | None) -> "Iterator[tuple[DataFile, RawRow]]":
    from xtuner.data.finder import find_row, search_rows

    if line is not None:
        if len(files) > 1:
            raise UsageError("--row asks for a line of one file", hint=f"name one of the {len(files)} files")
        found = find_row(files[0], line)
        if found is None:
            raise DataError(f"{files[0].path} has no row on line {line:,}", hint="count lines from 1, blank ones too")
        return iter([(files[0], found)])
    assert text is not None
    matches = list(islice(((file, row) for file in files for row in search_rows(file, text)), _MAX_FOUND))
    if not matches:
        console.say(f"no row holds {text!r}")
    return iter(matches)


def _show_rows(
    rows: "Iterator[tuple[DataFile, RawRow]]", pool: "WorkerPool | None", *, as_json: bool, tokens: bool
) -> Iterator[dict[str, Any]]:
    """Print each row at once, or leave that to the JSON; yields it as plain values."""
    from xtuner.cli.preview_text import show_view
    from xtuner.data.finder import format_of

    formats: dict[Path, FormatName] = {}
    for file, row in rows:
        format = formats.setdefault(file.path, format_of(file, row))
        view = _view(file, row, format, pool)
        if not as_json:
            show_view(view, has_model=pool is not None, tokens=tokens)
        yield _view_json(view, tokens=tokens)


def _view(file: "DataFile", row: "RawRow", format: FormatName, pool: "WorkerPool | None") -> "RowView":
    from xtuner.data.jobs import ShowJob
    from xtuner.data.view import view_raw

    where = f"{file.path}:{row.number}"
    if pool is None:
        return view_raw(row.line, where, format, is_last=row.is_last)
    return pool.show(ShowJob(row.line, where, format, is_last=row.is_last))


def _view_json(view: "RowView", *, tokens: bool) -> dict[str, Any]:
    return {
        "where": view.where,
        "messages": [{"role": role, "text": text} for role, text in view.messages],
        "sequences": [
            {
                "tokens": sequence.num_tokens,
                "trained_tokens": sequence.num_targets,
                "cut_at": sequence.is_cut_at,
                "pieces": [
                    {"text": piece.text, "trained": piece.is_trained, "tokens": piece.num_tokens}
                    for piece in (sequence.pieces if tokens else sequence.runs())
                ],
            }
            for sequence in view.sequences
        ],
        "problems": [
            {
                "code": problem.code,
                "severity": "error" if problem.is_error else "warning",
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in view.problems
        ],
    }


def _examine(files: "list[DataFile]", pool: "WorkerPool | None", *, reads_all: bool) -> "Health":
    from xtuner.cli.progress import counting
    from xtuner.data.health import examine

    with counting("rows examined") as on_rows:
        return examine(files, pool, reads_all=reads_all, on_rows=on_rows)


def _report(
    health: "Health",
    samples: list[dict[str, Any]],
    model: Path | None,
    spec: Any,
    pack_length: int,
    global_batch_size: int,
    *,
    as_json: bool,
    strict: bool,
) -> bool:
    """Print the report; whether the data passes."""
    from xtuner.cli.preview_text import report_lines
    from xtuner.data.health import forecast_packs, to_json

    forecast = forecast_packs(health, pack_length, global_batch_size)
    template_changes = 0 if spec is None else _template_changes(spec)
    vocab_size = None if model is None else _vocab_size(model)
    ok = not health.problems.num_errors and not (strict and health.problems.num_warnings)
    if as_json:
        report = {**to_json(health, forecast), "vocab_size": vocab_size, "template_changes": template_changes}
        console.data_json({"ok": ok, "report": report, "samples": samples})
    else:
        limit = None if spec is None else spec.options.max_tokens
        console.data(
            "\n".join(
                report_lines(health, forecast, limit=limit, vocab_size=vocab_size, template_changes=template_changes)
            )
        )
    return ok


def _template_changes(spec: Any) -> int:
    """Lines in which the template given differs from the model's own; 0 when they are the same or none is given."""
    from xtuner.data.template import own_template

    if spec.chat_template is None:
        return 0
    own = (own_template(spec.tokenizer_dir) or "").splitlines()
    given = spec.chat_template.read_text(encoding="utf-8").splitlines()
    return sum(line[:1] in "+-" for line in difflib.ndiff(own, given))


def _vocab_size(model: Path) -> int | None:
    """Of the embedding, by config.json; None where there is none."""
    try:
        config = jsonlib.loads((model / "config.json").read_text(encoding="utf-8"))
        size = config.get("text_config", config).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None
    return size if isinstance(size, int) and size > 1 else None


def _browse(files: "list[DataFile]", spec: Any) -> None:
    from xtuner.data.finder import format_of, iter_rows

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("-i needs a terminal", hint="leave -i out; --row and --search show single rows")
    if len(files) > 1:
        raise UsageError(f"-i shows one file, and these are {len(files)}", hint="name one of them")
    first = next(iter_rows(files[0]), None)
    if first is None:
        raise DataError(f"{files[0].path} holds no rows, only blank lines", hint="write one chat a line")
    from xtuner.tui.preview.app import browse

    with nullcontext() if spec is None else _pool(replace(spec, wants_profile=False), [], 1) as pool:
        browse(files[0], pool, format_of(files[0], first))
        if pool is not None:
            pool.abandon()
