"""What this machine has to train on, without torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from xtuner.language import _
from xtuner.v1.config.memory import GIB


@dataclass(frozen=True)
class Hardware:
    """The devices that a run on this machine would use.

    Attributes:
        kind: "cuda", or "cpu" where there is no accelerator.
        name: of the first device.
        num_devices: accelerators; 0 on a CPU.
        memory_gib: of one accelerator, the smallest; all of the machine's on a CPU.
        host_gib: memory of the machine.
    """

    kind: str
    name: str
    num_devices: int
    memory_gib: float
    host_gib: float

    def sentence(self) -> str:
        """In words of the language that is spoken."""
        if self.kind == "cpu":
            said = _("no accelerator; {cores} CPU cores, {host_gib:.1f} GiB of memory")
            return said.format(cores=count_cores(), host_gib=self.host_gib)
        return _("{num_devices} x {name} with {memory_gib:.1f} GiB, {host_gib:.1f} GiB of host memory").format(
            **vars(self)
        )


def find_hardware() -> Hardware:
    """The devices of this machine, as the driver lists them."""
    host_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    num_devices = count_accelerators()
    listing = _ask_driver("--query-gpu=name,memory.total", "--format=csv,noheader,nounits") if num_devices else []
    rows = [line.rpartition(",") for line in listing]
    sizes = [int(row[-1]) for row in rows if row[-1].strip().isdigit()]
    if not sizes:
        return Hardware("cpu", "this machine", 0, host_gib, host_gib)
    return Hardware("cuda", rows[0][0].strip(), num_devices, min(sizes) / 1024, host_gib)


def count_accelerators() -> int:
    """CUDA devices that a process started now would see; 0 without a driver.

    `CUDA_VISIBLE_DEVICES` wins over what the driver lists, as in CUDA itself.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    return sum(line.startswith("GPU ") for line in _ask_driver("--list-gpus"))


def _ask_driver(*arguments: str) -> list[str]:
    """The lines that nvidia-smi answers; none without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def count_cores() -> int:
    """CPU cores that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_rank(num_ranks: int) -> int:
    """CPU threads for each of `num_ranks` ranks of this machine: an even share of the cores we may use."""
    return max(1, count_cores() // num_ranks)
