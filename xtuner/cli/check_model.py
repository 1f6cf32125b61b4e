"""`xtuner check-model`: the verdict on a model directory, with the fix."""

import os
import shlex
from contextlib import nullcontext
from pathlib import Path

import typer

from xtuner.byte_size import shown_size
from xtuner.cli import console
from xtuner.cli.progress import scanning_bar
from xtuner.errors import ModelError
from xtuner.hub.findings import Finding
from xtuner.hub.model_dir import ModelReport, ModelSummary, inspect_model

_NO_MODEL_CODES = {
    "PATH_MISSING",
    "HUB_ID",
    "NOT_A_DIRECTORY",
    "HUB_CACHE_ROOT",
    "HUB_CACHE_REPO",
    "HUB_CACHE_SNAPSHOTS",
    "PARENT_OF_MODELS",
    "NO_CONFIG",
}


def command(
    path: str = typer.Argument(..., help="The model directory."),
    deep: bool = typer.Option(
        False, "--deep", help="Read all of the weights: NaN, infinity, zeros, and the checksums of a download."
    ),
    trust_remote_code: bool = typer.Option(
        False, "--trust-remote-code", help="Warn of code that the model asks for instead of refusing it; none is run."
    ),
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Say whether a model directory can be trained, and how to fix it.

    Reads JSON files and weight headers; runs nothing and fetches nothing. Exit code 3 when it cannot be trained.

    \b
    Example:
      xtuner check-model models/Qwen3-8B
      xtuner check-model models/Qwen3-8B --deep
      xtuner check-model ~/.cache/huggingface/hub/models--Qwen--Qwen3-8B
    """
    with scanning_bar() if deep else nullcontext() as on_progress:
        report = inspect_model(path, trust_remote_code=trust_remote_code, is_deep=deep, on_progress=on_progress)
    if json:
        console.data_json(report.to_json())
    else:
        console.data("\n".join(_render(report)))
    if not report.ok:
        raise typer.Exit(ModelError.exit_code)


def _render(report: ModelReport) -> list[str]:
    lines = [*_render_summary(report.summary), ""] if report.summary else []
    for finding in report.findings:
        lines += _render_finding(finding)
    if report.findings:
        lines.append("")
    if report.ok:
        return [*lines, "OK: this model can be trained"]
    if report.suggestion is not None:  # the command last, so that it can be pasted
        return [
            *lines,
            "FAIL: this is not the model directory; try",
            f"xtuner check-model {_pasted(report.suggestion)}",
        ]
    if report.findings[0].code in _NO_MODEL_CODES:
        return [*lines, "FAIL: this is not a model directory"]
    problems = "1 problem" if report.num_fails == 1 else f"{report.num_fails} problems"
    return [*lines, f"FAIL: this model cannot be trained ({problems} to fix)"]


def _pasted(path: Path) -> str:
    """One word for a shell on one line, whatever is in the name."""
    text = f"./{path}" if str(path).startswith("-") else str(path)
    if text.isprintable():
        return shlex.quote(text)
    characters = (c if c.isprintable() and c not in "\\'" else _escaped(c) for c in text)
    return f"$'{''.join(characters)}'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _render_finding(finding: Finding) -> list[str]:
    lines = [f"{finding.severity.value} {finding.code}: {finding.message}"]
    if finding.hint:
        first, *rest = finding.hint.split("\n")
        lines += [f"  hint: {first}", *(f"    {line}" for line in rest)]
    return lines


def _render_summary(summary: ModelSummary) -> list[str]:
    heads = f"{summary.num_heads} ({summary.num_kv_heads} key-value)" if summary.num_kv_heads else summary.num_heads
    num_files = len(summary.weight_files)
    rows = {
        "architecture": f"{summary.architecture} ({summary.model_type})",
        "parameters": _short_count(summary.num_parameters),
        "dtype": summary.dtype,
        "size on disk": f"{shown_size(summary.size_bytes)} in {num_files} {'file' if num_files == 1 else 'files'}",
        "layers": summary.num_layers,
        "hidden size": summary.hidden_size,
        "heads": heads,
        "vocabulary": summary.vocab_size,
        "context length": summary.context_length,
        "tied embeddings": _yes_no(summary.tied_embeddings),
        "tokenizer": summary.tokenizer or "no",
        "chat template": f"yes ({summary.chat_template_family})" if summary.has_chat_template else "no",
        "generation config": _yes_no(summary.has_generation_config),
        "licence file": summary.license_file or "no",
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {'?' if value is None else value}" for name, value in rows.items()]


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _short_count(count: int) -> str:
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
