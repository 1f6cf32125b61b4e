"""What a rank says about its data: while it is tokenised, and before the first step."""

import sys
import time
from collections.abc import Callable

from xtuner.data.prepare import Progress
from xtuner.data.prepared import PreparedData
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import Ranks

# Rows that are not packed are padded to a multiple of this: kernels like it, and it costs 32 tokens a row at most
# on average.
PAD_MULTIPLE = 64
_SAY_EVERY_S = 10.0


def progress_log(ranks: Ranks) -> Callable[[Progress], None] | None:
    """Says on stderr now and then how far tokenising is; for the first rank of each machine, None for the others."""
    if ranks.local_rank:
        return None
    said_at = time.monotonic()

    def say(progress: Progress) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            print(f"[XTuner] {progress.sentence()}", file=sys.stderr, flush=True)

    return say


def pad_multiple(config: TrainerConfig) -> int:
    """Packs are padded to a multiple of so many tokens; see `Batches`."""
    return PAD_MULTIPLE if config.packing == "none" else 1


def plan_lines(data: PreparedData, config: TrainerConfig, world_size: int, total_steps: int) -> list[str]:
    """Packs, steps and epochs of the run."""
    per_step = config.sequences_per_step(world_size)
    num_tokens = data.num_tokens_packed()
    steps_per_epoch = -(-data.num_packs // per_step)
    if config.packing == "none":
        shape = f"sequences: {data.num_packs:,}, one row each, padded to multiples of {PAD_MULTIPLE} tokens"
    else:
        fill = 100 * num_tokens / (data.num_packs * config.pack_max_length)
        shape = f"packs: {data.num_packs:,} of at most {config.pack_max_length:,} tokens, {fill:.1f} % full"
    lines = [f"{shape}; {steps_per_epoch:,} steps an epoch, {total_steps:,} steps in all"]
    if config.sp_size > 1:
        lines.append(f"sequence parallel: {config.sp_size} neighbouring ranks share each pack")
    if config.tp_size > 1:
        lines.append(f"tensor parallel: {config.tp_size} neighbouring ranks share the matrices of each block")
    if data.num_packs < per_step:
        lines.append(
            f"packs: {num_tokens:,} tokens make {data.num_packs:,} and one step takes {per_step:,}: "
            "the data is repeated within a step"
        )
    elif total_steps > steps_per_epoch:
        lines.append(f"packs: the run goes {total_steps * per_step / data.num_packs:.1f} times through the data")
    return lines
