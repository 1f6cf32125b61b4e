"""TRL's way from a file of chats to packed training data, timed: what the data benchmark compares with.

    python benchmarks/trl_data.py --tokenizer DIR/tokenizer --data DIR/chats.jsonl --num-proc 2

runs in an environment of its own with `trl` and its dependencies, and prints one line of JSON. Nothing of TRL is
copied or skipped: the file goes through `load_dataset` and `SFTTrainer` with assistant-only loss and best-fit packing,
and the first batch comes from the trainer's own dataloader. The model is as small as models get, since the trainer
wants one. Every run starts with empty caches.
"""

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer

_GIB = 1024**3
_MEMORY_INTERVAL_S = 0.2


def main() -> None:
    """Prepare the data once and print what came out and how long it took."""
    parser = argparse.ArgumentParser(description="Time TRL's data preparation.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer and chat template")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of chats")
    parser.add_argument("--num-proc", type=int, default=1)
    parser.add_argument("--pack-length", type=int, default=4096)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trl-data-") as scratch, PeakMemory() as memory:
        # Read when the libraries are imported, which happens below: no cache of an earlier run, no network.
        os.environ.update(
            HF_HOME=scratch,
            HF_DATASETS_CACHE=f"{scratch}/datasets",
            HF_HUB_OFFLINE="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
        figures = measure(args.tokenizer, args.data, args.num_proc, args.pack_length, Path(scratch), memory)
    print(json.dumps(figures), flush=True)


def measure(
    tokenizer_dir: Path, data: Path, num_proc: int, pack_length: int, scratch: Path, memory: "PeakMemory"
) -> dict[str, Any]:
    """The figures of one run; the `_s` values but `prepare_s` count from the start of the process."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = _config(scratch, num_proc, pack_length)
    model = _tiny_model(len(tokenizer), pack_length)

    begin_s = time.perf_counter()
    dataset = load_dataset("json", data_files=str(data), split="train")
    trainer, end_s, ready_s = _trainer(model, config, dataset, tokenizer)
    next(iter(trainer.get_train_dataloader()))
    first_batch_s = process_age_s()
    memory.stop()

    packed = _count(trainer.train_dataset)
    return {
        "rows": len(dataset),
        **packed,
        "waste": round(1 - packed["tokens"] / (packed["packs"] * pack_length), 4),
        "prepare_s": round(end_s - begin_s, 2),
        "ready_s": round(ready_s, 2),
        "first_batch_s": round(first_batch_s, 2),
        "peak_rss_gib": round(memory.peak_rss_gib, 2),
        "peak_pss_gib": round(memory.peak_pss_gib, 2),
    }


def _config(scratch: Path, num_proc: int, pack_length: int) -> "SFTConfig":
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(scratch / "output"),
        assistant_only_loss=True,
        packing=True,
        packing_strategy="bfd",
        max_length=pack_length,
        dataset_num_proc=num_proc if num_proc > 1 else None,
        per_device_train_batch_size=1,
        # A machine without an accelerator: bf16, TRL's default, is refused there.
        use_cpu=True,
        bf16=False,
        report_to="none",
    )


def _tiny_model(vocab_size: int, max_length: int) -> Any:
    from transformers import AutoModelForCausalLM, Qwen3Config

    return AutoModelForCausalLM.from_config(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=max_length,
        )
    )


def _trainer(
    model: Any, config: "SFTConfig", dataset: "Dataset", tokenizer: "PreTrainedTokenizerBase"
) -> tuple["SFTTrainer", float, float]:
    """The trainer, and when its data was ready: by the clock `perf_counter`, and as the age of the process."""
    from trl import SFTTrainer

    ready: list[float] = []

    class TimedTrainer(SFTTrainer):
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            prepared = super()._prepare_dataset(*args, **kwargs)
            ready.extend((time.perf_counter(), process_age_s()))
            return prepared

    trainer = TimedTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    end_s, ready_s = ready
    return trainer, end_s, ready_s


def _count(packed: "Dataset") -> dict[str, int]:
    """Packs, tokens and trained tokens of a packed dataset, straight from its Arrow columns."""
    import pyarrow.compute as pc

    table = packed.with_format("arrow")[:]
    labels = pc.list_flatten(table["labels"])
    return {
        "packs": len(packed),
        "tokens": pc.sum(pc.list_value_length(table["input_ids"])).as_py(),
        "trained_tokens": pc.sum(pc.not_equal(labels, -100)).as_py(),
    }


def process_age_s() -> float:
    """Seconds since this process was started, the start of Python and all imports included (Linux)."""
    # Field 22 of proc(5) stat, in clock ticks since boot; the name before it may hold blanks.
    fields_from_3 = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields_from_3[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s


class PeakMemory:
    """The most memory that this process and its children held together, sampled by a thread.

    RSS counts a page once for each process that maps it; PSS shares it out between them, so that workers forked from
    a large process do not count that process again.
    """

    def __init__(self) -> None:
        self.peak_rss_gib = 0.0
        self.peak_pss_gib = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more samples."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        this_process = psutil.Process()
        while not self._stopped.wait(_MEMORY_INTERVAL_S):
            rss_bytes = pss_bytes = 0
            for process in (this_process, *this_process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a worker that ended just now
                    memory = process.memory_full_info()
                    rss_bytes += memory.rss
                    pss_bytes += memory.pss
            self.peak_rss_gib = max(self.peak_rss_gib, rss_bytes / _GIB)
            self.peak_pss_gib = max(self.peak_pss_gib, pss_bytes / _GIB)


if __name__ == "__main__":
    main()
