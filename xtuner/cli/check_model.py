"""`xtuner check-model`: the verdict on a model directory, with the fix."""

import shlex

import typer

from xtuner.cli import console
from xtuner.errors import ModelError
from xtuner.hub.findings import Severity
from xtuner.hub.model_dir import ModelReport, ModelSummary, inspect_model


def command(
    path: str = typer.Argument(..., help="The model directory."),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Say whether a model directory can be trained, and how to fix it.

    Reads JSON files and weight headers; runs nothing and fetches nothing. Exit code 3 when it cannot be trained.

    \b
    Example:
      xtuner check-model ~/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B
    """
    report = inspect_model(path)
    if json:
        console.data_json(report.to_json())
    else:
        console.data("\n".join(_render(report)))
    if not report.ok:
        raise typer.Exit(ModelError.exit_code)


def _render(report: ModelReport) -> list[str]:
    lines = _render_summary(report.summary) if report.summary else []
    for finding in report.findings:
        lines.append(f"{finding.severity.value} {finding.code}: {finding.message}")
        if finding.hint:
            lines.append(f"  hint: {finding.hint}")
    num_fails = sum(finding.severity is Severity.FAIL for finding in report.findings)
    lines.append(f"FAIL: {num_fails} to fix in {report.path}" if num_fails else f"OK: {report.path} can be trained")
    if report.suggestion:
        lines.append(f"xtuner check-model {shlex.quote(str(report.suggestion))}")
    return lines


def _render_summary(summary: ModelSummary) -> list[str]:
    heads = f"{summary.num_heads} ({summary.num_kv_heads} key-value)" if summary.num_kv_heads else summary.num_heads
    rows = {
        "architecture": f"{summary.architecture} ({summary.model_type})",
        "parameters": _short_count(summary.num_parameters),
        "weights": f"{summary.dtype}, {_size(summary.size_bytes)} in {len(summary.weight_files)} file(s)",
        "layers": summary.num_layers,
        "hidden size": summary.hidden_size,
        "heads": heads,
        "vocabulary": summary.vocab_size,
        "context": summary.context_length,
        "tied embeddings": "yes" if summary.tied_embeddings else "no",
        "tokenizer": "yes" if summary.has_tokenizer else "no",
        "chat template": "yes" if summary.has_chat_template else "no",
    }
    return [f"{name:<16} {'?' if value is None else value}" for name, value in rows.items()] + [""]


def _short_count(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:.1f} MiB"
