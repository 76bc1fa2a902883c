"""On a CPU, freed memory is kept for the next step."""

import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from gantrain.engine.heap import M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, KeepFreedMemory

MIB = 2**20
PEAK = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
PLENTY = 100 * PEAK


class Library:
    """A C library that records the options."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        self.options[option] = value
        return 1


SMALL = {M_TRIM_THRESHOLD: -1, M_MMAP_THRESHOLD: 32 * MIB}


def test_small_blocks_are_kept_at_once_and_large_ones_after_the_first_steps() -> None:
    library = Library()
    keep = KeepFreedMemory(PLENTY, library, {})
    assert library.options == SMALL
    keep()
    assert library.options == SMALL
    keep()
    assert library.options == SMALL | {M_MMAP_MAX: 0}


def test_large_blocks_are_given_back_if_twice_the_peak_may_not_fit() -> None:
    library = Library()
    keep = KeepFreedMemory(int(1.5 * PEAK), library, {})
    for _ in range(5):
        keep()
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
    keep = KeepFreedMemory(PLENTY, library, environment)
    for _ in range(5):
        keep()
    assert library.options == {}


def test_other_tunables_of_glibc_are_no_settings_of_the_allocator() -> None:
    library = Library()
    KeepFreedMemory(PLENTY, library, {"GLIBC_TUNABLES": "glibc.rtld.nns=4"})
    assert library.options == SMALL


def test_another_c_library_is_left_alone() -> None:
    keep = KeepFreedMemory(PLENTY, object(), {})
    for _ in range(5):
        keep()


FAULTS = """
import resource, sys, torch
from gantrain.engine.heap import KeepFreedMemory

keep = KeepFreedMemory(2**60) if sys.argv[1] == "keep" else lambda: None
for step in range(14):
    if step == 12:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first, second = torch.ones(5 * 2**20), torch.ones(12 * 2**20)  # 20 and 48 MiB
    del first, second
    keep()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 2)
"""


@pytest.fixture(scope="module")
def faults() -> Callable[[str], int]:
    def count(mode: str) -> int:
        """Return the page faults of a step that allocates, fills and frees 68 MiB."""
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
        return int(done.stdout)

    return count


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_a_step_allocates_no_pages_anew(faults: Callable[[str], int]) -> None:
    pages_of_large_block = 48 * MIB // resource.getpagesize()
    assert faults("plain") >= pages_of_large_block, "without the setting, freed blocks are given back"
    assert faults("keep") < 100
