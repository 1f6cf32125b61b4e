"""Blocks of the host's memory that are freed and asked for again cost page faults once."""

import os
import platform
import subprocess
import sys

import pytest

# Faults of ten tensors of 64 MiB, each freed before the next one is made.
_FAULTS = """
import resource, sys, torch
from xtuner.v1.engine.memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(16):  # the first blocks leave gaps of a few bytes between them; then a freed one fits
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keep, **environment):
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, "keep" if keep else "leave"],
        capture_output=True,
        text=True,
        check=True,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}, **environment},
    )
    kept, faults = done.stdout.split()
    return bool(int(kept)), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_blocks_are_used_again():
    assert _faults(False)[0] is False
    kept, faults = _faults(True)
    assert kept and 10 * faults < _faults(False)[1]


def test_a_setting_of_the_user_is_left_alone():
    assert _faults(True, MALLOC_ARENA_MAX="4")[0] is False
