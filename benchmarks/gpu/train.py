"""Training steps on one GPU: XTuner and TRL's SFTTrainer side by side, in tokens/s, MFU and peak memory.

    python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0 datasets==5.2.0 psutil flash-attn
    python benchmarks/gpu/train.py --trl-python trl/bin/python --shape 0.6b 8b

Its parts that need no GPU, the models and the two programs, are those of `benchmarks/train.py`. Without flash-attn,
`--trl-attention sdpa`.

The models have the sizes of Qwen3 0.6B and 8B, and random weights. Both tools train all parameters, fp32 masters and
bf16 compute, on packs of assistant-only chats; TRL with flash attention and its own chunked loss. MFU is the model
FLOPs, counted by the same rule for both and without what is recomputed, over the peak of the data sheet; where that is
not known, over the measured matmul peak. Weights, gradients and AdamW's state of 8 billion parameters take 122 GiB,
so on a smaller GPU the 8B model has fewer layers, of the same size: the title of the table says how many.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from train import HERE, Case, Programs, figures, print_table

ROWS = {
    "tokens_per_s": "tokens/s",
    "gflops": "model GFLOP/s",
    "peak_share": "MFU",
    "peak_gib": "peak allocated memory, GiB",
    "first_step_s": "first step done from process start, s",
}
# What all 36 layers of the 8B shape need: 16 bytes a parameter, and room for activations and logits.
WHOLE_8B_GIB, LAYERS_OF_8B = 150, 8


@dataclass(frozen=True)
class GpuCase:
    """A model shape and how it is trained; `trl_attention` is a name of transformers."""

    num_layers: int
    is_recomputed: bool
    is_compiled: bool
    trl_attention: str


def main() -> None:
    """Run the rounds of each shape and print the tables."""
    parser = argparse.ArgumentParser(description="Compare the training of XTuner and TRL on one GPU.")
    parser.add_argument("--trl-python", help="Python of an environment with TRL and flash-attn")
    parser.add_argument(
        "--trl-attention", default="flash_attention_2", help="attention of transformers; sdpa without flash-attn"
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile, in both tools")
    parser.add_argument("--directory", type=Path, default=Path("benchmark_data/train"), help="where the input is kept")
    parser.add_argument("--shape", nargs="+", choices=("0.6b", "8b"), default=["0.6b", "8b"])
    parser.add_argument("--num-layers", type=int, help="of the model; default: all that fit")
    parser.add_argument("--pack-length", type=int, default=8192)
    parser.add_argument("--num-steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-rows", type=int, default=3_000, help="chats in the file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "error: this benchmark needs a CUDA GPU and PyTorch finds none\nhint: benchmarks/train.py runs on a CPU"
        )
    programs = Programs(args.directory, args.trl_python, args.num_rows)
    case = Case("", num_ids=32_768, pack_length=args.pack_length, num_ranks=1, num_threads=8, num_steps=args.num_steps)
    for shape in args.shape:
        compare(programs, replace(case, dtype="bfloat16"), shape, gpu_case(shape, args), args.rounds)


def gpu_case(shape: str, args: argparse.Namespace) -> GpuCase:
    """As many layers as the GPU has memory for, unless told."""
    memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    all_that_fit = {"0.6b": 28, "8b": 36 if memory_gib >= WHOLE_8B_GIB else LAYERS_OF_8B}[shape]
    return GpuCase(args.num_layers or all_that_fit, shape == "8b", args.compile, args.trl_attention)


def compare(programs: Programs, case: Case, shape: str, gpu: GpuCase, rounds: int) -> None:
    """XTuner and TRL in turn on one shape, and the table."""
    from xtuner.v1.engine.flops import peak_flops

    model = make_model(programs, case.num_ids, shape, gpu.num_layers)
    flags = ["--model", model, "--random-weights"]
    flags += [*(["--recompute"] if gpu.is_recomputed else []), *(["--compile"] if gpu.is_compiled else [])]
    data = ["--data", programs.data(case.num_ids) / "chats.jsonl"]
    programs.xtuner(replace(case, num_steps=1), [*flags, *data])  # fills the cache of tokens
    measured = matmul_peak_gflops(programs, case)
    data_sheet = peak_flops(torch.device("cuda", 0))
    peak = data_sheet / 1e9 if data_sheet else measured
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for number in range(rounds):
        print(f"{shape}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        ours.append(figures(programs.xtuner(case, [*flags, *data]), peak, model))
        if programs.trl_python:
            device = ["--device", "cuda", "--attention", gpu.trl_attention]
            theirs.append(figures(programs.trl(case, [*flags, *data, *device]), peak, model))
    print(
        f"\nQwen3 {shape}, {gpu.num_layers} layers, {'with' if gpu.is_recomputed else 'without'} recomputation, "
        f"{'compiled' if gpu.is_compiled else 'not compiled'}, {gpu.trl_attention} in TRL, "
        f"packs of {case.pack_length:,}, bf16, {torch.cuda.get_device_name(0)}, {case.num_steps} steps a run, "
        f"medians of {rounds} rounds; MFU over {peak / 1e3:,.0f} TFLOP/s, measured matmul peak "
        f"{measured / 1e3:,.0f} TFLOP/s\n"
    )
    print_table(ours, theirs, ROWS)


def make_model(programs: Programs, num_ids: int, shape: str, num_layers: int) -> Path:
    """A model directory without weights: both tools draw theirs, and tens of GiB stay off the disk."""
    data = programs.data(num_ids)
    model = data / f"model-{shape}-{num_layers}"
    if not (model / "tokenizer.json").exists():
        flags = ["--tokenizer", data / "tokenizer", "--shape", shape, "--num-layers", num_layers, "--config-only"]
        programs.run([sys.executable, HERE / "train_model.py", model, *flags, *(["--tied"] if shape == "0.6b" else [])])
    return model


def matmul_peak_gflops(programs: Programs, case: Case) -> float:
    """What the GPU does in bf16 products of the shapes of an 8B model."""
    sizes = ["--rows", case.pack_length, "--hidden-size", 4096, "--intermediate-size", 12_288, "--square", 8192]
    flags = ["--device", "cuda", "--dtype", case.dtype, *sizes]
    return float(json.loads(programs.run([sys.executable, HERE / "matmul_peak.py", *flags]))["peak_gflops"])


if __name__ == "__main__":
    main()
