"""The memory estimate of `xtuner plan` against the peak of real runs.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda

Each case is a run of the training entry, two steps long (from the second step on the optimizer's state is there), on
a model of random weights and full packs of chats made by `benchmarks/chats.py`. Measured is the highest `max_memory`
that a rank has logged: on a CPU the resident peak of its process, on an accelerator what its tensors took there.
Prints a Markdown table of estimate, measurement and error, then the median and the worst error. What a process takes
before it has a model is in both, and hides errors of small models: the last column is the error without it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chats import make_chats, make_tokenizer

from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import BASE_GIB, estimate
from xtuner.launch.model_sizes import sizes_of
from xtuner.run.layout import list_runs
from xtuner.run.metrics import read_metrics
from xtuner.v1.config.files import resolve_config

ENTRY = Path(__file__).parents[1] / "xtuner" / "v1" / "train" / "cli" / "sft.py"
NUM_STEPS = 2
NUM_IDS = 4096  # of the tokenizer; a model's vocabulary may be larger
NUM_ROWS = 300

# Few layers and short packs: what takes memory in a model need not take long to compute.
SHAPES: dict[str, dict[str, Any]] = {
    # 7.1 million parameters a block, 42 million in all.
    "wide": {
        "model_type": "qwen3",
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
        "head_dim": 64,
    },
    # The same sixteen times, 113 million in all.
    "tall": {
        "model_type": "qwen3",
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
        "head_dim": 64,
    },
    # 1.8 million a block, 14 million in all: activations are most of it.
    "deep": {
        "model_type": "qwen3",
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 64,
    },
    # 50 million a block, 200 million in all: weights and their state are most of it.
    "large": {
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    # 9.4 million a block, 38 million in all: each head has keys and values of its own, and no norm.
    "llama": {
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 4,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
    },
}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        shape: of the model, one of `SHAPES`.
        vocab_size: of the model.
        is_tied: whether embedding and head are one matrix.
        num_ranks: processes.
        pack_length: tokens of a pack.
        options: the other options of the run.
    """

    shape: str = "wide"
    vocab_size: int = NUM_IDS
    is_tied: bool = True
    num_ranks: int = 1
    pack_length: int = 1024
    options: dict[str, Any] = field(default_factory=dict)

    def words(self) -> str:
        """What is special about it."""
        ranks = f", {self.num_ranks} ranks" if self.num_ranks > 1 else ""
        tied = "" if self.is_tied else " untied"
        options = "".join(f", {name}" for name in _option_words(self.options))
        return f"{self.shape}, {self.vocab_size:,}{tied} ids, packs of {self.pack_length:,}{ranks}{options}"


def _option_words(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _option_words(value)
        else:
            words = name.replace("_", " ")
            yield words if value is True else f"{words} {value}"


def _fsdp(**options: Any) -> dict[str, Any]:
    return {"fsdp_config": options}


CASES = [
    Case(),
    Case(pack_length=2048),
    Case(options={"global_batch_size": 3}),
    Case(options=_fsdp(recompute_ratio=1.0)),
    Case(options=_fsdp(cpu_offload=True)),
    Case(vocab_size=32_768, is_tied=False),
    Case(vocab_size=32_768, is_tied=False, options={"loss_chunk_size": 256}),
    Case(vocab_size=151_936, pack_length=512),
    Case("deep", pack_length=4096),
    Case("deep", pack_length=4096, options=_fsdp(recompute_ratio=0.5)),
    Case("deep", pack_length=8192, options=_fsdp(recompute_ratio=1.0)),
    Case("deep", vocab_size=32_768, pack_length=4096, options={"loss_chunk_size": 4096}),
    Case("llama", pack_length=2048),
    Case("llama", vocab_size=32_768, is_tied=False, options=_fsdp(recompute_ratio=1.0)),
    Case("tall", pack_length=256),
    Case("large", pack_length=256),
    Case("large", pack_length=512, options=_fsdp(recompute_ratio=1.0)),
    Case("large", pack_length=256, options={"global_batch_size": 2}),
    Case(num_ranks=2),
    Case(num_ranks=2, options={"global_batch_size": 4}),
    Case(num_ranks=2, options=_fsdp(cpu_offload=True, reshard_after_forward=False)),
    Case(num_ranks=2, vocab_size=32_768, is_tied=False, pack_length=512),
    Case("deep", num_ranks=2, pack_length=4096, options=_fsdp(recompute_ratio=1.0)),
    Case("tall", num_ranks=2, pack_length=256),
    Case("large", num_ranks=2, pack_length=256),
]


@dataclass(frozen=True)
class Outcome:
    """Estimate and measurement of a case, in GiB; `base` is the part of both that no model has a share in."""

    case: Case
    estimated: float
    measured: float
    base: float

    @property
    def error(self) -> float:
        """Of the estimate, as a share of what was measured."""
        return self.estimated / self.measured - 1

    @property
    def error_without_base(self) -> float:
        """The same of what is on top of the base."""
        return (self.estimated - self.base) / (self.measured - self.base) - 1


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description="Compare the memory estimate with real runs.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--directory", type=Path, default=Path("benchmark_data/memory"), help="where the input is kept")
    parser.add_argument("--case", type=int, nargs="+", help="numbers of cases, from 1; default: all")
    args = parser.parse_args()
    directory = args.directory.resolve()
    _make_input(directory)
    outcomes = []
    for number in args.case or range(1, len(CASES) + 1):
        outcome = measure(CASES[number - 1], args.device, directory)
        print(f"{number}: {_row(outcome)}", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    print_table(outcomes)


def _make_input(directory: Path) -> None:
    if not (directory / "chats.jsonl").exists():
        make_tokenizer(directory / "tokenizer", NUM_IDS)
        make_chats(directory / "chats.jsonl", NUM_ROWS)


def measure(case: Case, device: str, directory: Path) -> Outcome:
    """Run `case` in processes of its own, and estimate it.

    Raises:
        RuntimeError: the run failed; its output is in the message.
    """
    scratch = Path(tempfile.mkdtemp(prefix="xtuner-memory-"))
    try:
        options = _options(case, device, directory, scratch)
        config_file = scratch / "options.json"
        config_file.write_text(json.dumps(options), encoding="utf-8")
        config = resolve_config({}, config_file)
        hardware = Hardware(device, "device", case.num_ranks, 80.0, 1024.0)
        estimated = estimate(config, sizes_of(config), hardware, nproc=case.num_ranks).memory.total
        measured = _peak_gib(config_file, case.num_ranks, device)
    finally:
        shutil.rmtree(scratch)
    if device == "cuda":  # tensors alone are measured there
        return Outcome(case, estimated - BASE_GIB["cuda"], measured, 0.0)
    return Outcome(case, estimated, measured, BASE_GIB["cpu"])


def _options(case: Case, device: str, directory: Path, scratch: Path) -> dict[str, Any]:
    shape = {
        **SHAPES[case.shape],
        "architectures": ["LlamaForCausalLM" if case.shape == "llama" else "Qwen3ForCausalLM"],
        "vocab_size": case.vocab_size,
        "tie_word_embeddings": case.is_tied,
        "max_position_embeddings": case.pack_length,
    }
    (scratch / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    return {
        "model_cfg": str(scratch / "config.json"),
        "tokenizer_path": str(directory / "tokenizer"),
        "dataset": str(directory / "chats.jsonl"),
        "cache_dir": str(directory / "cache"),
        "work_dir": str(scratch / "runs"),
        "total_step": NUM_STEPS,
        "max_length": case.pack_length,
        "pack_max_length": case.pack_length,
        **case.options,
    }


def _peak_gib(config_file: Path, num_ranks: int, device: str) -> float:
    """The highest peak that any rank of a run has logged."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    command = [sys.executable, *(torchrun if num_ranks > 1 else ()), str(ENTRY), "--config", str(config_file)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    [run_dir] = list_runs(config_file.parent / "runs")
    return max(record["max_memory"] for rank in range(num_ranks) for record in read_metrics(run_dir.rank_metrics(rank)))


def print_table(outcomes: list[Outcome]) -> None:
    """Each case, then the errors of all."""
    print("| case | estimated, GiB | measured, GiB | error | without the base |\n| --- | --- | --- | --- | --- |")
    for outcome in outcomes:
        print(_row(outcome))
    for name, errors in (
        ("error", [abs(outcome.error) for outcome in outcomes]),
        ("error without the base", [abs(outcome.error_without_base) for outcome in outcomes]),
    ):
        print(f"\n{name}: median {statistics.median(errors):.1%}, worst {max(errors):.1%}")


def _row(outcome: Outcome) -> str:
    return (
        f"| {outcome.case.words()} | {outcome.estimated:.2f} | {outcome.measured:.2f} | {outcome.error:+.1%} "
        f"| {outcome.error_without_base:+.1%} |"
    )


if __name__ == "__main__":
    main()
