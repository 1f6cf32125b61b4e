"""TRL's way from a model and a file of chats to trained steps, timed: what the training benchmark compares with.

    OMP_NUM_THREADS=2 python benchmarks/trl_train.py --model DIR/model --data DIR/chats.jsonl --num-steps 8
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/trl_train.py --model ...

runs in an environment of its own with `trl` and its dependencies, and the first rank prints one line of JSON. Nothing
of TRL is copied or skipped: the file goes through `load_dataset` and `SFTTrainer` with assistant-only loss and
best-fit packing, and every step is the trainer's own. Gradient checkpointing, TRL's default, is off unless asked for,
the optimizer is AdamW with its fused kernel, and gradients are clipped to a norm of 1.

With `--packs` the data are packs made before, one JSON object a line with `input_ids`, `labels` and `seq_lengths`,
trained in the order of the file, and `--learning-rates` says the learning rate of each step: for loss curves.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_data import process_age_s

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from trl import SFTConfig


def main() -> None:
    """Train a few steps and print what each took."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="trl-train-") as scratch:
        # Read when the libraries are imported, which happens below: no cache of an earlier run, no network. The
        # ranks share the first one's cache, or each would tokenise the file.
        home = os.environ.setdefault("XTUNER_BENCHMARK_HF_HOME", scratch)
        os.environ.update(
            HF_HOME=home, HF_DATASETS_CACHE=f"{home}/datasets", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1"
        )
        figures = measure(args, Path(scratch))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(figures), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time TRL's training steps.")
    parser.add_argument("--model", type=Path, required=True, help="model directory with tokenizer and chat template")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="JSONL file of chats")
    source.add_argument("--packs", type=Path, help="JSONL file of packs, trained in their order")
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--pack-length", type=int, default=2048)
    parser.add_argument("--num-proc", type=int, help="processes that tokenise; default: this one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", default="sdpa", help="attention implementation of transformers")
    parser.add_argument("--random-weights", action="store_true", help="draw the weights of the model's config")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true", help="compile the model")
    parser.add_argument("--learning-rates", type=Path, help="JSON list, one for each step")
    return parser.parse_args()


@dataclass
class StepTimes:
    """What happened on this rank: one entry a step."""

    done_at: list[float] = field(default_factory=list)
    documents: list[list[int]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_step_s: float = 0.0
    peak_gib: float = 0.0

    def see(self, inputs: dict[str, "torch.Tensor"]) -> None:
        """Note what a batch holds: padding-free, so that all of it is documents."""
        starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], inputs["position_ids"].shape[1]]
        self.documents.append([end - start for start, end in zip(starts, ends, strict=True)])
        self.targets.append(int((inputs["labels"] != -100).sum()))


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one run; `first_step_s` counts from the start of the process."""
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForCausalLM

    if args.random_weights:
        model_config = AutoConfig.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_config(model_config, attn_implementation=args.attention)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32", attn_implementation=args.attention)
    dataset = load_dataset("json", data_files=str(args.packs or args.data), split="train")
    rates = json.loads(args.learning_rates.read_text()) if args.learning_rates else None
    times = StepTimes()
    trainer = _trainer(model, _config(args, scratch, rates), dataset, times, rates, args.model)
    trainer.train()
    return _gather(times)


def _config(args: argparse.Namespace, scratch: Path, rates: list[float] | None) -> "SFTConfig":
    from trl import SFTConfig

    # Packs that are ready take the place of packing; the batch stays free of padding either way.
    data = (
        {"packing": False, "padding_free": True, "max_length": None, "train_sampling_strategy": "sequential"}
        if args.packs
        else {"packing": True, "packing_strategy": "bfd", "max_length": args.pack_length, "assistant_only_loss": True}
    )
    return SFTConfig(
        output_dir=str(scratch / "output"),
        **data,
        dataset_num_proc=args.num_proc,
        dataset_kwargs={"skip_prepare_dataset": True} if args.packs else None,
        per_device_train_batch_size=1,
        max_steps=args.num_steps,
        use_cpu=args.device == "cpu",
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=args.recompute,
        torch_compile=args.compile,
        optim="adamw_torch_fused",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.01,
        max_grad_norm=1.0,
        learning_rate=max(rates) if rates else 6e-5,
        # Only for several ranks: with a backend named, one process alone would look for the others.
        ddp_backend="gloo" if args.device == "cpu" and "RANK" in os.environ else None,
        ddp_find_unused_parameters=False,  # on by default without checkpointing, and costs time for nothing here
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )


def _trainer(
    model: Any, config: "SFTConfig", dataset: "Dataset", times: StepTimes, rates: list[float] | None, model_dir: Path
) -> Any:
    import torch
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    class TimedTrainer(SFTTrainer):
        def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
            times.see(inputs)
            loss = super().training_step(model, inputs, *args, **kwargs)
            times.losses.append(loss.item())
            return loss

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if rates is None:
                return super().create_scheduler(num_training_steps, optimizer)
            peak = self.args.learning_rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / peak
            )
            return self.lr_scheduler

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.done_at.append(time.perf_counter())
            times.first_step_s = times.first_step_s or process_age_s()
            times.peak_gib = _peak_gib()

    return TimedTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        callbacks=[Clock()],
    )


def _peak_gib() -> float:
    """Peak allocated on the GPU, or the resident peak of the process where there is none, in GiB."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _gather(times: StepTimes) -> dict[str, Any]:
    """The figures of all ranks, step by step; times are the first rank's, peaks the highest."""
    import torch.distributed as dist

    ranks = [times]
    if dist.is_initialized():
        ranks = [times] * dist.get_world_size()
        dist.all_gather_object(ranks, times)
    first = ranks[0]
    num_steps = len(first.done_at)
    documents = [[length for rank in ranks for length in rank.documents[step]] for step in range(num_steps)]
    return {
        "step_s": [round(end - begin, 4) for begin, end in pairwise(first.done_at)],
        "documents": documents,
        "targets": [sum(rank.targets[step] for rank in ranks) for step in range(num_steps)],
        "losses": first.losses,
        "first_step_s": round(first.first_step_s, 2),
        "peak_gib": round(max(rank.peak_gib for rank in ranks), 3),
    }


if __name__ == "__main__":
    main()
