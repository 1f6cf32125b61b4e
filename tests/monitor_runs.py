"""Run directories as trainers leave them, seeded, for what reads them."""

import json
import math
import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, format_log, format_step
from xtuner.run.status import start_status, write_status

BEGUN = datetime(2025, 8, 29, 9, 0, 0)
TOTAL_STEPS = 1000


def values_of(step, rank=0, seed=0):
    """The numbers of a healthy step."""
    shared, own = random.Random(f"{seed}/{step}"), random.Random(f"{seed}/{step}/{rank}")
    seconds, tokens = 4.9 + 0.2 * own.random(), float(own.randint(3900, 4096))
    loss = 1.2 + 2 * math.exp(-step / 150) + shared.gauss(0, 0.05)
    return {
        "data_time": 0.02 + 0.04 * own.random(),
        "lr": 6e-5 * min(1, step / 30) * (1 - step / 1100),
        "time": seconds,
        "text_tokens": tokens,
        "total_loss": loss + own.gauss(0, 0.1),
        "reduced_llm_loss": loss,
        "max_memory": 15.5 + 0.4 * own.random(),
        "reserved_memory": 17.87,
        "grad_norm": 1 + shared.random() + 3 * math.exp(-step / 40),
        "tgs": tokens / seconds,
        "e2e_tgs": 800.0,
    }


class RunWriter:
    """A run that is written as its ranks would write it."""

    def __init__(
        self, work_dir: Path, *, num_ranks: int = 2, state: str = "running", seed: int = 0, run: RunDir | None = None
    ) -> None:
        self.run = run or RunDir.create(work_dir)
        self.num_ranks, self.seed, self.step = num_ranks, seed, 0
        self.run.config_json.write_text(json.dumps({"lr": 6e-5, "fsdp_config": {"cpu_offload": False}}))
        self.record = {
            "command": ["torchrun", "sft.py", "--lr", "6e-5"],
            "model": "models/Qwen3-0.6B",
            "dataset": "chats.jsonl",
            "device_memory_gib": 80.0,
        }
        self.write_record()
        self.set_state(state)

    def write_record(self, **changes: object) -> None:
        """`run.json` with these changes."""
        self.record |= changes
        self.run.run_json.write_text(json.dumps(self.record))

    def set_state(self, state: str, **changes: object) -> None:
        """`status.json` of this process, which is alive."""
        status = replace(start_status(TOTAL_STEPS), state=state, step=self.step if hasattr(self, "step") else 0)
        write_status(self.run, replace(status, **changes))

    def add_steps(self, num_steps: int, change=lambda rank, step: {}, ranks=None) -> None:
        """Steps of all ranks, or of these."""
        steps = range(self.step + 1, self.step + num_steps + 1)
        for rank in ranks or range(self.num_ranks):
            lines = [self._line(step, rank, change(rank, step)) for step in steps]
            self.append("".join(line + "\n" for line in lines), rank)
        self.step += num_steps

    def _line(self, step: int, rank: int, changes: dict[str, float]) -> str:
        values = {**values_of(step, rank, self.seed), **changes}
        return format_step(StepLine(step, TOTAL_STEPS, values, BEGUN + timedelta(seconds=5 * step), rank=rank))

    def say(self, text: str, level: str = "INFO", rank: int = 0) -> None:
        """Another line."""
        time = BEGUN + timedelta(seconds=5 * self.step)
        self.append(format_log(text, level, time, rank) + "\n", rank)

    def append(self, text: str, rank: int = 0) -> None:
        """As it stands."""
        with self.run.rank_log(rank).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)

    def add_evaluation(self, step: int, loss: float) -> None:
        """A record of an evaluation."""
        with self.run.eval_metrics.open("a") as file:
            file.write(json.dumps({"step": step, "loss": loss, "token_accuracy": 0.5, "is_best": True}) + "\n")

    def add_export(self, step: int, num_bytes: int = 4096) -> None:
        """An exported model."""
        folder = self.run.export(step)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\0" * num_bytes)


def healthy_run(work_dir: Path, num_steps: int = 300, num_ranks: int = 2) -> RunWriter:
    """A run with evaluations and an export."""
    writer = RunWriter(work_dir, num_ranks=num_ranks)
    writer.say("training begins")
    writer.add_steps(num_steps // 2)
    writer.say("gradient norm is high", level="WARNING")
    writer.add_steps(num_steps - num_steps // 2)
    writer.add_evaluation(100, 1.9)
    writer.add_evaluation(200, 1.5)
    writer.add_export(100)
    writer.set_state("running")
    return writer
