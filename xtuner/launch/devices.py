"""What this machine has to train on, without torch."""

import os
from dataclasses import dataclass
from typing import Any

from xtuner.language import _
from xtuner.v1.config.memory import GIB

# Less is what a driver keeps for itself.
_TAKEN_GIB = 1.0


@dataclass(frozen=True)
class Hardware:
    """The devices that a run on this machine would use.

    Attributes:
        kind: "cuda", or "cpu" where there is no accelerator.
        name: of the first device.
        num_devices: accelerators; 0 on a CPU.
        memory_gib: of one accelerator, the smallest; all of the machine's on a CPU.
        host_gib: memory of the machine.
        taken_gib: of one accelerator, the fullest: what other processes have there now.
    """

    kind: str
    name: str
    num_devices: int
    memory_gib: float
    host_gib: float
    taken_gib: float = 0.0

    def sentence(self) -> str:
        """In words of the language that is spoken."""
        if self.kind == "cpu":
            said = _("no accelerator; {cores} CPU cores, {host_gib:.1f} GiB of memory")
            return said.format(cores=count_cores(), host_gib=self.host_gib)
        said = _("{num_devices} x {name} with {memory_gib:.1f} GiB, {host_gib:.1f} GiB of host memory")
        if self.taken_gib >= _TAKEN_GIB:
            said += _("; others have taken up to {taken_gib:.1f} GiB of a device")
        return said.format(**vars(self))


def find_hardware() -> Hardware:
    """The devices that a process started now on this machine would see, as the driver lists them."""
    host_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    devices = _list_devices()
    num_devices = _count_visible(devices)
    if not devices or not num_devices:
        return Hardware("cpu", "this machine", 0, host_gib, host_gib)
    return Hardware(
        "cuda",
        devices[0].name,
        num_devices,
        min(device.memory_gib for device in devices),
        host_gib,
        taken_gib=max(device.taken_gib for device in devices),
    )


def count_accelerators() -> int:
    """CUDA devices that a process started now would see; 0 without a driver.

    `CUDA_VISIBLE_DEVICES` wins over what the driver lists, as in CUDA itself.
    """
    return _count_visible(_list_devices() if _visible() is None else [])


@dataclass(frozen=True)
class _Device:
    name: str
    memory_gib: float
    taken_gib: float


def _count_visible(devices: list[_Device]) -> int:
    """Those that `CUDA_VISIBLE_DEVICES` names, or else all `devices`."""
    visible = _visible()
    return len(devices) if visible is None else len(visible)


def _visible() -> list[str] | None:
    """The devices that `CUDA_VISIBLE_DEVICES` names; None where it does not choose."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def _list_devices() -> list[_Device]:
    """Those that `CUDA_VISIBLE_DEVICES` chooses of what NVML lists; all of them where it cannot be told; else none."""
    import pynvml  # 30 ms that only a look for devices should cost

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or none that answers
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        chosen = [handle for name in _visible() or () for handle in _called(name, handles)]
        return [_device(handle) for handle in chosen or handles]
    except pynvml.NVMLError:  # a device that does not know its memory, or that is lost
        return []
    finally:
        pynvml.nvmlShutdown()


def _called(name: str, handles: list[Any]) -> list[Any]:
    """The device that CUDA calls so: by its number, where both count along the bus, or by the beginning of its UUID."""
    import pynvml

    if name.isdecimal():
        return handles[int(name) : int(name) + 1]
    if name.startswith("MIG-"):  # a part of a device
        return [pynvml.nvmlDeviceGetHandleByUUID(name)]
    return [handle for handle in handles if pynvml.nvmlDeviceGetUUID(handle).startswith(name)]


def _device(handle: Any) -> _Device:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return _Device(pynvml.nvmlDeviceGetName(handle), memory.total / GIB, memory.used / GIB)


def count_cores() -> int:
    """CPU cores that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_rank(num_ranks: int) -> int:
    """CPU threads for each of `num_ranks` ranks of this machine: an even share of the cores we may use."""
    return max(1, count_cores() // num_ranks)
