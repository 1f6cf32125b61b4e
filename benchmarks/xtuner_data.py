"""XTuner's way from a file of chats to packed training data, timed: the other half of `trl_data.py`.

    python benchmarks/xtuner_data.py --tokenizer DIR/tokenizer --data DIR/chats.jsonl --num-proc 2

prints the same figures, and how long a second start takes, when the tokens are in the cache. Every run starts with
an empty cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trl_data import PeakMemory, process_age_s


def main() -> None:
    """Prepare the data once, then once more from the cache, and print what came out and how long it took."""
    parser = argparse.ArgumentParser(description="Time XTuner's data preparation.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer and chat template")
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of chats")
    parser.add_argument("--num-proc", type=int, default=1)
    parser.add_argument("--pack-length", type=int, default=4096)
    parser.add_argument("--cache", type=Path, help="a cache to keep; by default an empty one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xtuner-data-") as scratch, PeakMemory() as memory:
        cache_dir = args.cache or Path(scratch)
        figures = measure(args.tokenizer, args.data, args.num_proc, args.pack_length, cache_dir, memory)
        if args.cache is None:  # a process of its own, as a second start is
            again = subprocess.run([sys.executable, *sys.argv, "--cache", scratch], capture_output=True, check=True)
            figures["second_prepare_s"] = json.loads(again.stdout)["prepare_s"]
            figures["second_ready_s"] = json.loads(again.stdout)["ready_s"]
    print(json.dumps(figures), flush=True)


def measure(
    tokenizer_dir: Path, data: Path, num_proc: int, pack_length: int, cache_dir: Path, memory: PeakMemory
) -> dict[str, Any]:
    """The figures of one run; the `_s` values but `prepare_s` count from the start of the process."""
    from xtuner.data.cache import TokenCache
    from xtuner.data.options import RowOptions, SourceSpec
    from xtuner.data.prepare import DataRequest, prepare_data

    request = DataRequest(
        [SourceSpec(str(data))],
        tokenizer_dir,
        rows=RowOptions(max_tokens=pack_length),
        pack_length=pack_length,
        num_workers=num_proc,
    )
    begin_s = time.perf_counter()
    prepared = prepare_data(request, TokenCache(cache_dir))
    prepare_s, ready_s = time.perf_counter() - begin_s, process_age_s()

    from xtuner.v1.datasets.batches import Batches  # torch, which preparing does without

    Batches(prepared, sequences_per_step=1, seed=0).fetch(1)
    first_batch_s = process_age_s()
    memory.stop()
    counts = prepared.counts
    return {
        "rows": counts.rows,
        "packs": prepared.num_packs,
        "tokens": counts.tokens,
        "trained_tokens": counts.trained_tokens,
        "waste": round(1 - counts.tokens / (prepared.num_packs * pack_length), 4),
        "prepare_s": round(prepare_s, 3),
        "ready_s": round(ready_s, 2),
        "first_batch_s": round(first_batch_s, 2),
        "peak_rss_gib": round(memory.peak_rss_gib, 2),
        "peak_pss_gib": round(memory.peak_pss_gib, 2),
    }


if __name__ == "__main__":
    main()
