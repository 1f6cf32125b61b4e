"""Training steps: XTuner, TRL's SFTTrainer and the machine's matmul peak, side by side.

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0 datasets==5.2.0 psutil
    python benchmarks/train.py --trl-python trl/bin/python --case fp32-2ranks vocab32k

makes chats, tokenizers and models (kept in `--directory`), then runs the peak and the two tools in turn, each in
processes of its own, and prints a Markdown table of medians and of ratios taken round by round for each case. Without
`--trl-python` only XTuner is measured. What the programs say goes to `--directory`/logs.

Both tools train the same Qwen3 model (hidden size 512, 6 layers, 8 heads, 4 of keys and values) from the same weights
on the same chats: one pack a rank and step, assistant tokens only, no recomputation, AdamW with its fused kernel,
gradients clipped to 1. Tokens are counted without padding; a step's time is from the end of the one before to its
own; the first two steps are left out, and a run's speed is the median of the others. `--case curve` compares losses
instead, step by step on the same packs, and draws them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUM_SKIPPED = 2


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        num_ids: of the tokenizer; also the size of the model's vocabulary.
        is_tied: whether embeddings and head are one matrix.
        pack_length: tokens, at most, of a pack.
        num_ranks: processes; one is started without torchrun.
        num_threads: of each rank.
        num_steps: trained by each tool in a round, the first two of them not counted.
        is_fresh: whether tokens are prepared anew in every run.
    """

    title: str
    num_ids: int = 4096
    is_tied: bool = True
    pack_length: int = 2048
    num_ranks: int = 2
    num_threads: int = 1
    dtype: str = "float32"
    num_steps: int = 8
    is_fresh: bool = False


CASES = {
    "fp32-2ranks": Case("fp32, packs of 2,048"),
    "fp32-4096": Case("fp32, packs of 4,096", pack_length=4096, num_steps=6),
    "vocab32k": Case("fp32, packs of 2,048, vocabulary of 32,768", num_ids=32_768, is_tied=False, num_steps=6),
    "bf16": Case("bf16, packs of 2,048", dtype="bfloat16"),
    "start": Case("from process start, nothing cached", num_ranks=1, num_threads=2, num_steps=5, is_fresh=True),
}
FLAT, CURVE = "flat", "curve"

# Packs of short rows, 2 layers so that the longest fits 16 GiB, and about as many tokens of each length.
FLAT_STEPS = {4096: 18, 16_384: 6, 65_536: 3}
FLAT_MAX_ROW, FLAT_LAYERS = 512, 2

ROWS = {
    "tokens_per_s": "tokens/s",
    "gflops": "model GFLOP/s",
    "peak_share": "share of the matmul peak",
    "first_step_s": "first step done from process start, s",
    "peak_gib": "peak memory of a rank, GiB",
}


def main() -> None:
    """Run the rounds of each case and print the tables."""
    parser = argparse.ArgumentParser(description="Compare the training of XTuner and TRL.")
    parser.add_argument("--trl-python", help="Python of an environment with TRL")
    parser.add_argument("--directory", type=Path, default=Path("benchmark_data/train"), help="where the input is kept")
    parser.add_argument("--case", nargs="+", choices=[*CASES, FLAT, CURVE], default=[*CASES, FLAT])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, help="of each run, at least 3; default: the case's own")
    parser.add_argument("--num-rows", type=int, default=3_000, help="chats in the file")
    parser.add_argument("--curve-image", type=Path, default=HERE.parent / "docs" / "images" / "loss-curve.svg")
    args = parser.parse_args()
    if args.num_steps is not None and args.num_steps <= NUM_SKIPPED:
        parser.error(f"--num-steps {args.num_steps}: the first {NUM_SKIPPED} are not counted")
    programs = Programs(args.directory, args.trl_python, args.num_rows)
    for name in args.case:
        if name == FLAT:
            compare_pack_lengths(programs, args.rounds)
        elif name == CURVE:
            from loss_curve import compare_losses

            compare_losses(programs, args.num_steps or 200, args.curve_image)
        elif CASES[name].dtype == "bfloat16" and not has_bf16_products():
            print(f"\n{name}: not measured, this CPU has no instructions for bf16 products")
        else:
            case = CASES[name]
            compare(programs, name, replace(case, num_steps=args.num_steps or case.num_steps), args.rounds)


def has_bf16_products() -> bool:
    """Whether this CPU multiplies bf16 matrices itself; without, PyTorch needs a hundred times as long as for fp32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


# --- Running the programs ---


class Programs:
    """Starts the programs on their input and reads the line of JSON each prints."""

    def __init__(self, directory: Path, trl_python: str | None, num_rows: int) -> None:
        self.directory = directory.resolve()
        self.trl_python = trl_python
        self._num_rows = num_rows
        self._log = self.directory / "logs" / "programs.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)

    def data(self, num_ids: int) -> Path:
        """Directory with chats.jsonl and a tokenizer of `num_ids` ids, made if need be."""
        directory = self.directory / str(num_ids)
        if not (directory / "chats.jsonl").exists():
            flags = ["--num-rows", self._num_rows, "--vocab-size", num_ids]
            self.run([sys.executable, HERE / "chats.py", directory, *flags])
        return directory

    def model(self, num_ids: int, *, is_tied: bool, num_layers: int = 6) -> Path:
        """Model directory, made if need be."""
        data = self.data(num_ids)
        model = data / f"model-{'tied' if is_tied else 'untied'}-{num_layers}"
        if not (model / "model.safetensors").exists():
            flags = ["--tokenizer", data / "tokenizer", "--num-layers", num_layers, *(["--tied"] if is_tied else [])]
            self.run([sys.executable, HERE / "train_model.py", model, *flags])
        return model

    def xtuner(self, case: Case, flags: Sequence[Any], **more: Any) -> dict[str, Any]:
        """One run of XTuner."""
        data = self.data(case.num_ids)
        kept = [] if case.is_fresh else ["--cache", data / "cache"]
        return self._train(sys.executable, "xtuner_train.py", case, [*flags, *kept], **more)

    def trl(self, case: Case, flags: Sequence[Any], **more: Any) -> dict[str, Any]:
        """One run of TRL; its ranks share the cache of this run."""
        assert self.trl_python is not None
        with tempfile.TemporaryDirectory(prefix="trl-home-") as home:
            environment = {"XTUNER_BENCHMARK_HF_HOME": home}
            return self._train(self.trl_python, "trl_train.py", case, flags, environment, **more)

    def peak_gflops(self, case: Case) -> float:
        """The machine's matmul peak with the threads of all ranks together."""
        environment = {"OMP_NUM_THREADS": str(case.num_ranks * case.num_threads)}
        flags = ["--dtype", case.dtype, "--rows", case.pack_length]
        return float(
            json.loads(self.run([sys.executable, HERE / "matmul_peak.py", *flags], environment))["peak_gflops"]
        )

    def _train(
        self, python: str, script: str, case: Case, flags: Sequence[Any], environment: dict[str, str] | None = None
    ) -> dict[str, Any]:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", case.num_ranks] if case.num_ranks > 1 else []
        common = ["--num-steps", case.num_steps, "--pack-length", case.pack_length, "--dtype", case.dtype]
        common += ["--num-proc", case.num_ranks * case.num_threads]
        threads = {"OMP_NUM_THREADS": str(case.num_threads)}
        printed = self.run([python, *torchrun, HERE / script, *common, *flags], {**threads, **(environment or {})})
        return dict(json.loads(printed.splitlines()[-1]))

    def run(self, command: Sequence[Any], environment: dict[str, str] | None = None) -> str:
        """The standard output of `command`; ends this program if it fails."""
        words = [str(part) for part in command]
        with self._log.open("a", encoding="utf-8") as log:
            print("$", *words, file=log, flush=True)
            done = subprocess.run(
                words, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if done.returncode:
            sys.exit(f"{' '.join(words)}\nfailed with exit code {done.returncode}; what it said is in {self._log}")
        return done.stdout


# --- Two tools side by side ---


def compare(programs: Programs, name: str, case: Case, rounds: int) -> None:
    """Peak, XTuner and TRL in turn, and the table."""
    model, data = programs.model(case.num_ids, is_tied=case.is_tied), programs.data(case.num_ids) / "chats.jsonl"
    flags = ["--model", model, "--data", data]
    if not case.is_fresh:  # fill the cache, which is another benchmark's matter
        _say(f"{name}: preparing the data")
        programs.xtuner(replace(case, num_steps=1), flags)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for number in range(rounds):
        _say(f"{name}: round {number + 1} of {rounds}")
        peak = programs.peak_gflops(case)
        ours.append(figures(programs.xtuner(case, flags), peak, model))
        if programs.trl_python:
            theirs.append(figures(programs.trl(case, flags), peak, model))
    ranks = f"{case.num_ranks} rank{'s' if case.num_ranks > 1 else ''} of {case.num_threads} thread"
    title = f"{case.title}; {ranks}{'s' if case.num_threads > 1 else ''}, {case.num_steps} steps a run"
    peaks = [run["peak_gflops"] for run in ours]
    print(
        f"\n{title}, medians of {rounds} rounds; matmul peak {statistics.median(peaks):,.0f} GFLOP/s {spread(peaks)}\n"
    )
    print_table(ours, theirs)


def figures(run: dict[str, Any], peak_gflops: float, model: Path) -> dict[str, float]:
    """One run in a few numbers; the model FLOPs of both tools are counted by the same rule."""
    step_s = run["step_s"][NUM_SKIPPED - 1 :]  # the first step's time is not known
    tokens = run.get("tokens") or [sum(lengths) for lengths in run["documents"]]
    flops = run.get("model_flops") or _model_flops(model, run["documents"], run["targets"])
    gflops = statistics.median(f / s for f, s in zip(flops[NUM_SKIPPED:], step_s, strict=True)) / 1e9
    return {
        "tokens_per_s": statistics.median(n / s for n, s in zip(tokens[NUM_SKIPPED:], step_s, strict=True)),
        "gflops": gflops,
        "peak_share": gflops / peak_gflops,
        "peak_gflops": peak_gflops,
        "first_step_s": run["first_step_s"],
        "peak_gib": run["peak_gib"],
    }


def _model_flops(model: Path, documents: list[list[int]], targets: list[int]) -> list[float]:
    flops = _flops_of(model)
    return [flops.of_documents(lengths, count) for lengths, count in zip(documents, targets, strict=True)]


@cache
def _flops_of(model: Path) -> Any:
    from xtuner.v1.engine.flops import ModelFlops
    from xtuner.v1.model.build import build_meta_model, read_model_config

    return ModelFlops.of_model(build_meta_model(read_model_config(model)))


def print_table(ours: list[dict[str, float]], theirs: list[dict[str, float]], rows: Mapping[str, str] = ROWS) -> None:
    """Medians with their ranges, and TRL's figure over ours, round by round."""
    print("| | XTuner | TRL | TRL / XTuner |\n| --- | --- | --- | --- |")
    for key, label in rows.items():
        cells = [_cell([run[key] for run in runs]) if runs else "-" for runs in (ours, theirs)]
        ratios = [b[key] / a[key] for a, b in zip(ours, theirs, strict=False)]
        cells.append(f"{statistics.median(ratios):.2f} {spread(ratios)}" if ratios else "-")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def _cell(values: list[float]) -> str:
    return f"{number(statistics.median(values))} {spread(values)}"


def spread(values: list[float]) -> str:
    """Lowest and highest value, in brackets."""
    return f"({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """A figure with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# --- One tool, packs of different lengths ---


def compare_pack_lengths(programs: Programs, rounds: int) -> None:
    """What a token costs in packs of more and more short rows: as much in each, if packing is right."""
    base = Case("", num_ranks=1, num_threads=2)
    model = programs.model(base.num_ids, is_tied=True, num_layers=FLAT_LAYERS)
    flags = ["--model", model, "--data", programs.data(base.num_ids) / "chats.jsonl", "--max-length", FLAT_MAX_ROW]
    costs: dict[int, list[float]] = {length: [] for length in FLAT_STEPS}
    for number_ in range(rounds):
        for length, num_steps in FLAT_STEPS.items():
            _say(f"{FLAT}: round {number_ + 1} of {rounds}, packs of {length:,}")
            run = programs.xtuner(replace(base, pack_length=length, num_steps=num_steps), flags)
            costs[length].append(1e3 / figures(run, 1.0, model)["tokens_per_s"])
    shortest = min(FLAT_STEPS)
    print(
        f"\ncost of a token in packs of rows of at most {FLAT_MAX_ROW} tokens, fp32, 1 rank of {base.num_threads} "
        f"threads, {FLAT_LAYERS} layers, medians of {rounds} rounds\n"
    )
    print(f"| tokens in a pack | ms a token | over that of {shortest:,} |\n| --- | --- | --- |")
    for length, values in costs.items():
        ratios = [value / first for value, first in zip(values, costs[shortest], strict=True)]
        print(
            f"| {length:,} | {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}) "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |",
            flush=True,
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
