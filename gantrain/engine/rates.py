"""Count the matrix products and convolutions of a training step, and measure how fast the device computes them."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution.

    Attributes:
        flops: number of multiplications and additions.
        num_bytes: number of bytes read and written.
        update: name of the update that computes it.
        num: average number of times per step; a fraction for lazy penalties.
    """

    dtype: torch.dtype
    flops: int
    num_bytes: int
    update: str = ""
    num: float = 1.0


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the products that are computed in its context, including those of a double backward pass.

    It uses the formulas of torch's FlopCounterMode, which itself fails in a double backward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []
        self.calls: Counter[str] = Counter()
        self.update = ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **(kwargs or {}), out_val=result))
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            num_bytes = sum(tensor.nbytes for tensor in tensors)
            self.products.append(Product(tensors[0].dtype, flops, num_bytes, self.update))
        return result

    @contextmanager
    def count_for(self, update: str) -> Iterator[None]:
        """Count the products of the block for an update, by its name."""
        self.update = update
        self.calls[update] += 1
        yield
        self.update = ""

    def per_step(self, calls_per_step: Mapping[str, float]) -> list[Product]:
        """Return the recorded products of one step, each with its average number per step.

        Args:
            calls_per_step: average number of calls per step, by name, of updates that are not called at every step.
        """
        nums = {update: calls / self.calls[update] for update, calls in calls_per_step.items() if update in self.calls}
        return [replace(product, num=nums.get(product.update, 1.0)) for product in self.products]


def compare_with_device(products: Sequence[Product], seconds: float, device: torch.device) -> dict[str, Any]:
    """Measure the FLOP/s and bandwidth of the device, and compare a step with these products and duration to them."""
    rates = {dtype: product_rate(device, dtype) for dtype in {product.dtype for product in products}}
    bandwidth = copy_rate(device)
    flops = round(sum(p.num * p.flops for p in products))
    return {
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
        "matrix_product_flops_per_second": {str(dtype).removeprefix("torch."): rate for dtype, rate in rates.items()},
        "copied_bytes_per_second": bandwidth,
        "share_of_ceiling": sum(p.num * p.flops / rates[p.dtype] for p in products) / seconds,
        "floor_seconds": sum(p.num * max(p.flops / rates[p.dtype], p.num_bytes / bandwidth) for p in products),
    }


def product_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measure the FLOP/s of the device in square matrix products, in torch's current precision."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / fastest_seconds(lambda: torch.mm(a, b), device)


def copy_rate(device: torch.device) -> float:
    """Measure the bytes per second that the device reads and writes in a copy that is too large for its caches."""
    x = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    copied = torch.empty_like(x)
    return 2 * x.nbytes / fastest_seconds(lambda: copied.copy_(x), device)


def fastest_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of five calls, after a warm-up call."""

    def seconds() -> float:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start

    seconds()
    return min(seconds() for _ in range(5))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued operations."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def reset_peak_memory(device: torch.device) -> None:
    """Release unused memory and reset the statistics of peak_bytes; on a CPU they cannot be reset."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: on a GPU that reserved by torch, otherwise the host memory of this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the peak resident host memory of this process, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
