"""XTuner's way from a model and a file of chats to trained steps, timed: the other half of `trl_train.py`.

    OMP_NUM_THREADS=2 python benchmarks/xtuner_train.py --model DIR/model --data DIR/chats.jsonl --num-steps 8
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/xtuner_train.py --model ...

trains with the `Trainer` that the command line uses and reads the figures from the run's own metrics files; the first
rank prints one line of JSON. Tokens are kept in `--cache`; without it, the data are prepared anew.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_data import process_age_s

if TYPE_CHECKING:
    from xtuner.v1.config import TrainerConfig
    from xtuner.v1.train import Trainer

_STARTED_AT = time.time() - process_age_s()


def main() -> None:
    """Train a few steps and print what each took."""
    args = _arguments()
    # Made by the first rank, known to all: the run directory is announced by the trainer itself.
    scratch = Path(tempfile.mkdtemp(prefix="xtuner-train-"))
    try:
        figures = measure(args, scratch)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(figures), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sys.stderr.flush()
    os._exit(0)  # as the training entry does: destructors of gloo's threads may abort the interpreter's exit


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time XTuner's training steps.")
    parser.add_argument("--model", type=Path, required=True, help="model directory with tokenizer and chat template")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of chats")
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--pack-length", type=int, default=2048)
    parser.add_argument("--max-length", type=int, help="longest row; default: the pack's length")
    parser.add_argument("--num-proc", type=int, help="processes that tokenise; default: one a core")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--random-weights", action="store_true", help="draw the weights of the model's config")
    parser.add_argument("--recompute", action="store_true", help="compute the blocks again in the backward pass")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--lr", type=float, default=6e-5)
    parser.add_argument("--cache", type=Path, help="a token cache to keep; by default an empty one")
    parser.add_argument(
        "--packs-to", type=Path, help="write what is trained, one pack a line, as trl_train.py reads it"
    )
    parser.add_argument("--learning-rates-to", type=Path, help="write the learning rate of each step")
    return parser.parse_args()


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one run; `first_step_s` counts from the start of the process."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    from xtuner.v1.train import Trainer

    trainer = Trainer(_config(args, scratch))
    if args.packs_to:
        _write_packs(trainer, args.num_steps, args.packs_to)
    trainer.fit()
    figures = _figures(trainer)
    if args.learning_rates_to:
        args.learning_rates_to.write_text(json.dumps(figures.pop("lrs")) + "\n", encoding="utf-8")
    return figures


def _config(args: argparse.Namespace, scratch: Path) -> "TrainerConfig":
    from xtuner.v1.config import TrainerConfig

    weights = {"model_cfg": args.model, "tokenizer_path": args.model} if args.random_weights else {}
    return TrainerConfig(
        **(weights or {"load_from": args.model}),
        dataset=args.data,
        max_length=args.max_length or args.pack_length,
        pack_max_length=args.pack_length,
        cache_dir=args.cache or scratch / "cache",
        num_data_workers=args.num_proc,
        total_step=args.num_steps,
        lr=args.lr,
        lr_min=min(args.lr, 1e-6),
        fsdp_config={
            "compute_dtype": args.dtype,
            "recompute_ratio": 1.0 if args.recompute else 0.0,
            "torch_compile": args.compile,
        },
        work_dir=scratch / "runs",
    )


def _write_packs(trainer: "Trainer", num_steps: int, path: Path) -> None:
    """What this rank will be trained on, with labels in place of targets."""
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, num_steps + 1):
            for pack in trainer._batches.fetch(step).micro_batches:
                labels = [-100] * pack.num_tokens
                for position, target in zip(pack.target_positions.tolist(), pack.targets.tolist(), strict=True):
                    labels[position + 1] = target
                row = {"input_ids": pack.input_ids[0].tolist(), "labels": labels, "seq_lengths": pack.document_lengths}
                file.write(json.dumps(row) + "\n")


def _figures(trainer: "Trainer") -> dict[str, Any]:
    """From the metrics of all ranks, step by step; times are the first rank's, peaks the highest."""
    from xtuner.run.metrics import read_metrics

    ranks = [list(read_metrics(trainer.run_dir.rank_metrics(rank))) for rank in range(trainer.ranks.world_size)]
    steps = list(zip(*ranks, strict=True))
    done_at = [step[0]["timestamp"] for step in steps]
    return {
        "step_s": [round(end - begin, 4) for begin, end in pairwise(done_at)],
        "tokens": [sum(record["text_tokens"] for record in step) for step in steps],
        "model_flops": [sum(record["tflops"] * 1e12 * record["time"] for record in step) for step in steps],
        "losses": [step[0]["reduced_llm_loss"] for step in steps],
        "lrs": [step[0]["lr"] for step in steps],
        "first_step_s": round(done_at[0] - _STARTED_AT, 2),
        "peak_gib": round(max(record["max_memory"] for step in steps for record in step), 3),
    }


if __name__ == "__main__":
    main()
