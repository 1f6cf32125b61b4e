"""Which devices there are, by a stand-in for the driver's library: the functions of NVML that we call."""

from types import SimpleNamespace

import pynvml
import pytest

from xtuner.launch import devices
from xtuner.launch.devices import Hardware, count_accelerators, find_hardware

GIB = 2**30
CARDS = [("H200", "GPU-aa11", 140, 1), ("H200", "GPU-bb22", 140, 30), ("L4", "GPU-cc33", 24, 0)]
PART = ("H200 MIG 1g", "MIG-dd44", 16, 0)


@pytest.fixture
def cards(monkeypatch):
    """Three cards and a part of one, until `cards` is emptied: then there is no driver."""
    present, is_open = [*CARDS], []

    def init():
        if not present:
            raise pynvml.NVMLError_LibraryNotFound
        is_open.append(True)

    def read(handle, field):
        assert is_open
        return handle[field]

    functions = {
        "nvmlInit": init,
        "nvmlShutdown": is_open.clear,
        "nvmlDeviceGetCount": lambda: len(present),
        "nvmlDeviceGetHandleByIndex": lambda index: present[index],
        "nvmlDeviceGetHandleByUUID": lambda uuid: {PART[1]: PART}[uuid],
        "nvmlDeviceGetName": lambda handle: read(handle, 0),
        "nvmlDeviceGetUUID": lambda handle: read(handle, 1),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
            total=read(handle, 2) * GIB, used=read(handle, 3) * GIB
        ),
    }
    for name, function in functions.items():
        assert hasattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, function)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield present
    assert not is_open


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("cuda", "H200", 3, 24, 30)),
        ("1", ("cuda", "H200", 1, 140, 30)),
        ("0,2", ("cuda", "H200", 2, 24, 1)),
        ("GPU-cc", ("cuda", "L4", 1, 24, 0)),
        ("MIG-dd44", ("cuda", "H200 MIG 1g", 1, 16, 0)),
        ("7", ("cuda", "H200", 1, 24, 30)),  # what CUDA will say to that, CUDA says
        ("", ("cpu", "this machine", 0)),
        ("-1", ("cpu", "this machine", 0)),
    ],
)
def test_the_devices_that_a_run_would_see(cards, monkeypatch, visible, expected):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware = find_hardware()
    found = (hardware.kind, hardware.name, hardware.num_devices, hardware.memory_gib, hardware.taken_gib)
    assert found[: len(expected)] == expected
    assert hardware.host_gib > 0


def test_without_a_driver_there_is_the_machine(cards):
    cards.clear()
    hardware = find_hardware()
    assert (hardware.kind, hardware.num_devices, hardware.memory_gib) == ("cpu", 0, hardware.host_gib)
    assert count_accelerators() == 0


def test_a_device_that_does_not_answer_is_none(cards, monkeypatch):
    def fail(handle):
        raise pynvml.NVMLError_GpuIsLost

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", fail)
    assert find_hardware().kind == "cpu"


def test_what_others_have_taken_is_said():
    taken = Hardware("cuda", "H200", 2, 140.0, 512.0, taken_gib=30.25)
    assert taken.sentence().endswith("; others have taken up to 30.2 GiB of a device")
    assert "taken" not in Hardware("cuda", "H200", 2, 140.0, 512.0, taken_gib=0.4).sentence()
    assert devices.count_cores() >= 1
