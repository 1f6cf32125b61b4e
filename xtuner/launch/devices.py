"""What this machine has to train on, without torch."""

import os
import shutil
import subprocess


def count_accelerators() -> int:
    """CUDA devices that a process started now would see; 0 without a driver.

    `CUDA_VISIBLE_DEVICES` wins over what the driver lists, as in CUDA itself.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines()) if listing.returncode == 0 else 0


def threads_per_rank(num_ranks: int) -> int:
    """CPU threads for each of `num_ranks` ranks of this machine: an even share of the cores we may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_ranks)
