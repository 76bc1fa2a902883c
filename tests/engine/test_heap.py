"""On a CPU, freed memory is kept for the next step."""

import ctypes
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from gantrain import assemble
from gantrain.engine.heap import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

MIB = 2**20
KEPT = {M_TRIM_THRESHOLD: -1, M_MMAP_THRESHOLD: 32 * MIB}


class Library:
    """A C library that records the options."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        self.options[option] = value
        return 1


@pytest.mark.parametrize("environment", [{}, {"GLIBC_TUNABLES": "glibc.rtld.nns=4"}])
def test_blocks_below_32_mib_are_kept(environment: dict[str, str]) -> None:
    library = Library()
    keep_freed_memory(library, environment)
    assert library.options == KEPT


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_MAX_": "65536"},
        {"GLIBC_TUNABLES": "glibc.rtld.nns=4:glibc.malloc.hugetlb=1"},
    ],
)
def test_settings_of_the_user_are_respected(environment: dict[str, str]) -> None:
    library = Library()
    keep_freed_memory(library, environment)
    assert library.options == {}


def test_another_c_library_is_left_alone() -> None:
    keep_freed_memory(object(), {})


FAULTS = """
import resource, sys, torch
from gantrain.engine.heap import keep_freed_memory

layers = [torch.nn.Conv2d(3, 16, 3), *[torch.nn.Conv2d(16, 16, 3) for _ in range(4)]]
network, x = torch.nn.Sequential(*layers), torch.randn(32, 3, 64, 64)

def work(steps):
    for _ in range(steps):
        network(x).square().mean().backward()

if sys.argv[1] == "keep":
    keep_freed_memory(environment={})
work(6)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(10)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def faults(mode: str) -> int:
    """Return the page faults of a step that passes images through convolutions, forward and backward."""
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_step_allocates_no_pages_anew() -> None:
    kept = min(faults("keep") for _ in range(2))
    assert kept < 300
    if not (HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text()):  # then pages are 2 MiB, and their faults few
        assert max(faults("plain") for _ in range(3)) > kept + 500


@pytest.mark.parametrize(("device", "expected"), [("cpu", ["kept", "trained"]), ("cuda", ["trained"])])
def test_a_training_keeps_freed_memory_on_a_cpu(
    device: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr(assemble, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(assemble, "train", lambda *_, **__: called.append("trained"))
    monkeypatch.setattr(assemble, "critic_schedule", MagicMock())
    training = MagicMock()
    training.run.device, training.run.processes.world_size = torch.device(device), 1
    assemble.Training.__call__(training, [])
    assert called == expected
