"""Which matrix products and convolutions a training step makes, and how fast the device could make them."""

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
        flops: multiplications and additions.
        num_bytes: what it reads and writes.
        update: name of the update that makes it.
        num: how often a step makes it; a fraction for a lazy penalty.
    """

    dtype: torch.dtype
    flops: int
    num_bytes: int
    update: str = ""
    num: float = 1.0


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the products that run in its context, those of a double backward pass included.

    The formulas are those of torch's FlopCounterMode, whose count by module fails in a double backward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Product] = []
        self.calls: Counter[str] = Counter()
        self.update = ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **(kwargs or {}), out_val=result))
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.found.append(Product(tensors[0].dtype, flops, sum(tensor.nbytes for tensor in tensors), self.update))
        return result

    @contextmanager
    def made_by(self, update: str) -> Iterator[None]:
        """Note which update makes the products of the block."""
        self.update = update
        self.calls[update] += 1
        yield
        self.update = ""

    def per_step(self, usual_calls: Mapping[str, float]) -> list[Product]:
        """Return the products of the step that was made, each with its number in an average step.

        Args:
            usual_calls: in an average step, by name of the update, where it is not as in the step that was made.
        """
        nums = {update: calls / self.calls[update] for update, calls in usual_calls.items() if update in self.calls}
        return [replace(product, num=nums.get(product.update, 1.0)) for product in self.found]


def compare_with_device(products: Sequence[Product], seconds: float, device: torch.device) -> dict[str, Any]:
    """Measure what the device reaches, and compare the products of a step that takes `seconds` with it."""
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
    """Measure the FLOP/s that the device reaches in square matrix products, in the precision that is set now."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / shortest(lambda: torch.mm(a, b), device)


def copy_rate(device: torch.device) -> float:
    """Measure how many bytes per second the device reads and writes in a copy too large for its caches."""
    x = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    copied = torch.empty_like(x)
    return 2 * x.nbytes / shortest(lambda: copied.copy_(x), device)


def shortest(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of five calls, after one to warm up."""

    def seconds() -> float:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start

    seconds()
    return min(seconds() for _ in range(5))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def forget_peak(device: torch.device) -> None:
    """Measure peak_bytes from here on, where the device can; give unused memory back first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory taken so far: on a GPU by torch, else by this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the most host memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
