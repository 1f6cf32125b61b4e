"""How much memory this rank has used."""

import resource
import sys

import torch

_GIB = 2**30


def peak_memory_gib(device: torch.device) -> tuple[float, float]:
    """Peak allocated and reserved memory in GiB since the last `reset_peak_memory`.

    Without an accelerator both are the resident peak of this process, since its start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB, torch.cuda.max_memory_reserved(device) / _GIB
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes on Linux, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    return peak, peak


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
