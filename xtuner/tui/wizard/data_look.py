"""A look at the data with the model's own tokenizer and template: first rows, counts, lengths, what is odd."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from xtuner.data.finder import RawRow, format_of, iter_rows
from xtuner.data.health import Health, PackForecast, examine, forecast_packs
from xtuner.data.histogram import bars
from xtuner.data.jobs import ShowJob
from xtuner.data.options import RowOptions
from xtuner.data.pool import WorkerPool
from xtuner.data.prepare import count_workers
from xtuner.data.problems import ERRORS, WARNINGS
from xtuner.data.report import short
from xtuner.data.rows import PipelineSpec
from xtuner.data.sources import DataFile, find_files
from xtuner.data.view import RowView, view_raw
from xtuner.errors import XTunerError
from xtuner.language import _
from xtuner.v1.config import TrainerConfig

NUM_SAMPLES = 3
_MAX_SAMPLE_BYTES = 2**18


class Stale(Exception):
    """Nobody waits for this look any more."""


@dataclass(frozen=True)
class DataLook:
    """What was seen so far.

    Attributes:
        files: path and format of each file.
        samples: the first rows, as the model sees them where there is a tokenizer.
        num_rows: rows looked at so far.
        health: the report on all of them, at the end.
        limit: tokens that a row may have.
        has_model: whether rows were tokenised.
        error: why the look ended early.
    """

    files: tuple[tuple[str, str], ...] = ()
    samples: tuple[RowView, ...] = ()
    num_rows: int = 0
    health: Health | None = None
    limit: int = 0
    has_model: bool = False
    error: XTunerError | None = None

    def forecast(self, pack_length: int, num_sequences: int) -> PackForecast | None:
        """The packs of these rows, where they are known."""
        return forecast_packs(self.health, pack_length, num_sequences) if self.health else None

    def lines(self, width: int) -> list[str]:
        """Format, counts, lengths and what is odd, in lines of about `width` cells."""
        lines = [f"{path}: {format}" for path, format in self.files]
        if self.error is not None:
            lines.append(f"✗ {self.error.message}")
            return lines + ([_("  hint: {hint}").format(hint=self.error.hint)] if self.error.hint else [])
        if self.health is None:
            so_far = _("{rows:,} rows looked at so far …").format(rows=self.num_rows)
            return [*lines, so_far if self.files else _("looking …")]
        return [*lines, *_about(self.health, self.limit, width)]


@dataclass(frozen=True)
class LookRequest:
    """What to look at: the options that decide it, and nothing else, so that other answers start no new look."""

    config: TrainerConfig
    tokenizer_dir: Path | None

    def key(self) -> tuple[object, ...]:
        """Equal for requests with the same outcome."""
        config = self.config
        specs = tuple((spec.path, spec.format, spec.ratio) for spec in config.data_specs)
        return (specs, self.tokenizer_dir, config.chat_template, config.row_limit, config.overlong, config.mask_policy)


def look_at(request: LookRequest, on_look: Callable[[DataLook], None], is_stale: Callable[[], bool]) -> None:
    """Look, telling `on_look` what is known whenever there is more; the caller's thread waits.

    Raises:
        Stale: `is_stale` came true.
    """
    config = request.config
    look = DataLook(limit=config.row_limit, has_model=request.tokenizer_dir is not None)

    def tell_count(num_rows: int) -> None:
        if is_stale():
            raise Stale
        on_look(DataLook(look.files, look.samples, num_rows, None, look.limit, look.has_model))

    try:
        files = find_files(config.data_specs)
        with ExitStack() as stack:
            pool = None
            if request.tokenizer_dir is not None:
                options = RowOptions(config.row_limit, config.overlong, config.mask_policy)
                spec = PipelineSpec(request.tokenizer_dir, config.chat_template, options, wants_profile=True)
                num_workers = count_workers(config.num_data_workers, sum(file.state.size for file in files))
                pool = stack.enter_context(WorkerPool(spec, num_workers))
            rows = list(islice(((file, row) for file in files for row in iter_rows(file)), NUM_SAMPLES))
            formats = tuple((str(file.path), _format(file)) for file in files)
            samples = tuple(_view(file, row, pool) for file, row in rows)
            look = DataLook(formats, samples, 0, None, look.limit, look.has_model)
            tell_count(0)
            health = examine(files, pool, on_rows=tell_count)
        on_look(DataLook(look.files, look.samples, health.counts.rows, health, look.limit, look.has_model))
    except XTunerError as error:
        on_look(DataLook(look.files, look.samples, 0, None, look.limit, look.has_model, error))


def _format(file: DataFile) -> str:
    first = next(iter_rows(file), None)
    return _("no rows") if first is None else format_of(file, first)


def _view(file: DataFile, row: RawRow, pool: WorkerPool | None) -> RowView:
    where, format = f"{file.path}:{row.number}", format_of(file, row)
    if pool is None or len(row.line) > _MAX_SAMPLE_BYTES:
        return view_raw(row.line, where, format, is_last=row.is_last)
    return pool.show(ShowJob(row.line, where, format, is_last=row.is_last))


def _about(health: Health, limit: int, width: int) -> list[str]:
    counts = health.counts
    lines = [_("{rows:,} rows").format(rows=health.num_rows)]
    if health.every > 1:
        lines[0] += _(", {rows:,} of them looked at").format(rows=counts.rows)
    percentiles = health.token_percentiles()
    if percentiles:
        lines.append(_("tokens a row: ") + ", ".join(f"{_(name)} {value:,}" for name, value in percentiles.items()))
        trained, tokens, share = short(counts.trained_tokens), short(counts.tokens), 100 * counts.trained_share
        said = _("{rows:,} rows; trained tokens {trained} of {tokens} ({share:.0f} %)")
        lines.append(said.format(rows=counts.rows, trained=trained, tokens=tokens, share=share))
        lines += bars(health.profile.row_tokens, limit, max(8, width - 30), num_classes=6)
    for sign, table in (("✗", ERRORS), ("!", WARNINGS)):
        for code, meaning in table.items():
            if count := health.problems.counts.get(code, 0):
                said = _("{count:,} rows: {meaning}").format(count=count, meaning=_(meaning))
                lines.append(f"{sign} {code}: {said}")
                lines += [f"    {problem.message}" for problem in health.problems.examples.get(code, [])[:1]]
    return lines
