"""The words of `xtuner download`: a plan as a table, a verdict in lines."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.byte_size import shown_size
from xtuner.hub.findings import shown

if TYPE_CHECKING:
    from xtuner.hub.download_plan import DownloadPlan
    from xtuner.hub.model_dir import ModelReport


def plan_lines(plan: "DownloadPlan", directory: Path, there: Collection[str], missing_bytes: int) -> list[str]:
    """The files with their sizes, what is there, what is left out and why, and the sums."""
    rows = [(shown(file.path), shown_size(file.size), "there" * (file.path in there)) for file in plan.files]
    lines = [f"{plan.repo_id} at {plan.commit} ({plan.revision})", "", *_table(rows)]
    if plan.left_out:
        left = [(shown(item.file.path), shown_size(item.file.size), item.reason) for item in plan.left_out]
        lines += ["", "left out:", *_table(left)]
    total = f"{len(plan.files)} files, {shown_size(plan.size_bytes)}; to download: {shown_size(missing_bytes)}"
    return [*lines, "", total, f"to {directory}"]


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    name_width = max((len(name) for name, _, _ in rows), default=0)
    size_width = max((len(size) for _, size, _ in rows), default=0)
    return [f"  {name:<{name_width}}  {size:>{size_width}}  {note}".rstrip() for name, size, note in rows]


def verdict_lines(report: "ModelReport") -> list[str]:
    """The findings of `check-model`, worst first, then whether the model can be trained."""
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.severity.value} {finding.code}: {finding.message}")
        lines += [f"  hint: {finding.hint}"] * bool(finding.hint)
    return [*lines, "OK: this model can be trained" if report.ok else "FAIL: this model cannot be trained"]
