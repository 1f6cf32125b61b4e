"""How much memory this rank has used."""

import ctypes
import os
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_GIB = 2**30
_STATM = Path("/proc/self/statm")  # proc(5): pages of address space, pages resident


# mallopt(3): parameter numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep what tensors free on the host for the next ones; returns whether it will.

    By itself it maps each block of 32 MiB and more anew and gives it back when it is freed, and the kernel zeroes its
    pages again, one fault after the other. With packs long enough for such blocks that costs a step on a CPU a fifth
    of its time. The process stays as large as it was at its peak. Settings of the user's own are left alone.
    """
    own = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if own or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


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


def memory_of_rank_gib(device: torch.device, num_local_ranks: int) -> float:
    """GiB for each rank: those of its device; of a machine without any, an even share for each of its ranks."""
    return memory_state(device).total / (1 if device.type == "cuda" else num_local_ranks)


@dataclass(frozen=True)
class MemoryState:
    """Memory of this process now, in GiB.

    Attributes:
        allocated: in tensors; resident in the process where there is no accelerator.
        reserved: held from the device by the allocator; the address space in use where there is no accelerator.
        total: what the device has; the smaller one of machine and process limit where there is no accelerator.
        device: its name.
        is_host: whether it is a process, and no accelerator.
    """

    allocated: float
    reserved: float
    total: float
    device: str
    is_host: bool = False

    @property
    def used(self) -> float:
        """What cannot be had again: what the allocator holds of a device, what is resident of a process."""
        return self.allocated if self.is_host else self.reserved

    def describe(self) -> str:
        """One line of words."""
        return (
            f"{self.allocated:.2f} GiB were allocated and {self.reserved:.2f} GiB reserved "
            f"of the {self.total:.2f} GiB of {self.device}"
        )


def memory_state(device: torch.device) -> MemoryState:
    """What is used of `device`, or of the machine's memory."""
    if device.type == "cuda":
        return MemoryState(
            torch.cuda.memory_allocated(device) / _GIB,
            torch.cuda.memory_reserved(device) / _GIB,
            torch.cuda.get_device_properties(device).total_memory / _GIB,
            torch.cuda.get_device_name(device),
        )
    page_gib = os.sysconf("SC_PAGE_SIZE") / _GIB
    machine = os.sysconf("SC_PHYS_PAGES") * page_gib
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    is_limited = limit != resource.RLIM_INFINITY and limit / _GIB < machine
    total, name = (limit / _GIB, "this process's limit (ulimit -v)") if is_limited else (machine, "this machine")
    try:
        address_space, resident = (int(pages) * page_gib for pages in _STATM.read_text().split()[:2])
    except OSError:  # not Linux
        resident = address_space = peak_memory_gib(device)[0]
    return MemoryState(resident, address_space, total, name, is_host=True)
