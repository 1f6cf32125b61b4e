"""Times and tokens of the steps, as the log line defines them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from xtuner.v1.datasets.batches import StepBatch
from xtuner.v1.engine.engine import StepOutcome
from xtuner.v1.engine.flops import ModelFlops, peak_flops
from xtuner.v1.engine.memory import peak_memory_gib, reset_peak_memory


@dataclass
class Meter:
    """Measures one step after the other on one rank; call `begin`, `batch_ready`, `measure` in this order.

    Attributes:
        device: where it computes.
        flops: of the whole model.
        num_sharing: ranks that run the same tokens together; each counts its share of them, and of the FLOPs.
    """

    device: torch.device
    flops: ModelFlops
    num_sharing: int = 1
    _peak_flops: float | None = field(init=False)
    _run_tokens: float = 0.0
    _run_time_s: float = 0.0
    _begun_at: float = 0.0
    _ready_at: float = 0.0

    def __post_init__(self) -> None:
        self._peak_flops = peak_flops(self.device)

    def progress(self) -> dict[str, float]:
        """Tokens and seconds of the run so far, for `go_on_from`."""
        return {"tokens": self._run_tokens, "time_s": self._run_time_s}

    def go_on_from(self, state: Mapping[str, float]) -> None:
        """Continue the run that said `state`."""
        self._run_tokens, self._run_time_s = float(state["tokens"]), float(state["time_s"])

    def begin(self) -> None:
        """A step begins: waiting for its batch counts as data time."""
        reset_peak_memory(self.device)
        self._begun_at = time.perf_counter()

    def batch_ready(self) -> None:
        """The batch is there: computing begins."""
        self._ready_at = time.perf_counter()

    def measure(self, batch: StepBatch, outcome: StepOutcome, lr: float) -> dict[str, float]:
        """The values of the step that just ended, in the order of the log line.

        `time` and `data_time` are seconds, memory is GiB, `tgs` and `e2e_tgs` are this rank's tokens per second
        over the step's computing time and over the whole run. Behind the values of the line come those of the
        metrics record alone: `token_accuracy`, 0 to 1, `tflops`, this rank's model TFLOP/s over the computing time,
        and `mfu`, 0 to 1, the share of the device's bf16 peak, where that is known; `skipped` is 1 in a step that
        updated nothing. The outcome's values were read from the device, so the device has finished the step.
        """
        now = time.perf_counter()
        data_time_s, step_time_s = self._ready_at - self._begun_at, now - self._ready_at
        num_tokens = batch.num_tokens / self.num_sharing
        self._run_tokens += num_tokens
        self._run_time_s += data_time_s + step_time_s
        allocated_gib, reserved_gib = peak_memory_gib(self.device)
        flops_per_s = self.flops.of_step(batch) / self.num_sharing / step_time_s
        values = {
            "data_time": data_time_s,
            "lr": lr,
            "time": step_time_s,
            "text_tokens": num_tokens,
            "total_loss": outcome.local_loss,
            "reduced_llm_loss": outcome.reduced_loss,
            "max_memory": allocated_gib,
            "reserved_memory": reserved_gib,
            "grad_norm": outcome.grad_norm,
            "tgs": num_tokens / step_time_s,
            "e2e_tgs": self._run_tokens / self._run_time_s,
            "token_accuracy": outcome.token_accuracy,
            "tflops": flops_per_s / 1e12,
        }
        if self._peak_flops:
            values["mfu"] = flops_per_s / self._peak_flops
        if not outcome.is_updated:
            values["skipped"] = 1.0
        return values
