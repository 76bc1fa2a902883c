"""On a CPU, freed memory is kept for the next step, and given back after the training."""

import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from gantrain.engine.heap import M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory, peak_bytes

MIB = 2**20
SMALL = {M_TRIM_THRESHOLD: -1, M_MMAP_THRESHOLD: 32 * MIB}


class Library:
    """A C library that records what is called."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}
        self.trimmed = 0

    def mallopt(self, option: int, value: int) -> int:
        self.options[option] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        assert pad == 0
        self.trimmed += 1
        return 1


def keeping(library: object, **options: Any) -> AbstractContextManager[Any]:
    device = torch.device(options.pop("device", "cpu"))
    options = {"available": 100 * peak_bytes(), "environment": {}} | options
    return keep_freed_memory(device, options.pop("num_processes", 1), library=library, **options)


def test_small_blocks_are_kept_at_once_and_large_ones_after_the_first_steps() -> None:
    library = Library()
    with keeping(library) as after_step:
        assert library.options == SMALL
        after_step()
        assert library.options == SMALL
        after_step()
        assert library.options == SMALL | {M_MMAP_MAX: 0}
        assert library.trimmed == 0


def test_memory_is_given_back_at_the_end_also_after_an_error() -> None:
    library = Library()
    with pytest.raises(KeyError), keeping(library) as after_step:  # noqa: PT012
        after_step()
        after_step()
        raise KeyError
    assert library.options[M_MMAP_MAX] > 0
    assert library.options[M_TRIM_THRESHOLD] > 0
    assert library.trimmed == 1


@pytest.mark.parametrize("options", [{"available": int(1.5 * peak_bytes())}, {"num_processes": 80}])
def test_large_blocks_are_given_back_if_twice_the_peak_may_not_fit(options: dict[str, int]) -> None:
    library = Library()
    with keeping(library, **options) as after_step:
        for _ in range(5):
            after_step()
        assert library.options == SMALL


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
    with keeping(library, environment=environment) as after_step:
        for _ in range(5):
            after_step()
    assert library.options == {}
    assert library.trimmed == 0


def test_other_tunables_of_glibc_are_no_settings_of_the_allocator() -> None:
    library = Library()
    with keeping(library, environment={"GLIBC_TUNABLES": "glibc.rtld.nns=4"}):
        assert library.options == SMALL


def test_nothing_is_done_on_a_gpu_or_with_another_c_library() -> None:
    library = Library()
    for used, device in ((library, "cuda"), (object(), "cpu")):
        with keeping(used, device=device) as after_step:
            for _ in range(5):
                after_step()
    assert library.options == {}


FAULTS = """
import resource, sys, torch
from contextlib import nullcontext
from gantrain.engine.heap import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20

def work(steps, after_step):
    for _ in range(steps):
        first, second = torch.ones(5 * 2**20), torch.ones(12 * 2**20)  # 20 and 48 MiB
        del first, second
        after_step()

start = resident()
context = keep_freed_memory(torch.device("cpu"), 1, available=2**60, environment={})
with context if sys.argv[1] == "keep" else nullcontext(lambda: None) as after_step:
    work(12, after_step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(2, after_step)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 2, end=" ")
print(resident() - start)
"""


def measured(mode: str) -> tuple[int, int]:
    """Return the page faults of a step that allocates, fills and frees 68 MiB, and the MiB that are held at the end."""
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
    faults, growth = map(int, done.stdout.split())
    return faults, growth


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_a_step_allocates_no_pages_anew_and_nothing_is_held_at_the_end() -> None:
    faults, _ = measured("plain")
    assert faults > 10_000, "freed blocks are given back: 48 MiB are 12,288 pages of 4 KiB"
    faults, growth = measured("keep")
    assert faults < 100
    assert growth < 20
