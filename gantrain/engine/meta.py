"""Run operations on the meta device as on a real one: count the bytes of its tensors, and compute in bf16.

Tensors of the meta device have shapes and types, but neither values nor memory.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made while it is active and not yet freed.

    What a single operation needs beside its inputs and outputs is not counted.

    Attributes:
        now: bytes of the tensors that are alive.
        peak: the largest value of `now` since the last call of `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def restart(self) -> int:
        """Let the peak begin at the current value, and return that."""
        self.peak = self.now
        return self.now

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            for x in output if isinstance(output, tuple | list) else (output,):
                if isinstance(x, Tensor):
                    self.add(x.untyped_storage())
        return outputs

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; views share that of their base."""
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += num_bytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, key, num_bytes)

    def remove(self, key: int, num_bytes: int) -> None:
        """Stop counting a storage."""
        self.known.discard(key)
        self.now -= num_bytes


IN_BF16 = {
    *(torch.conv2d, torch.conv_transpose2d, nn.functional.linear, torch.einsum),
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
}
IN_FLOAT32 = {torch.softmax, Tensor.softmax, nn.functional.softmax}


class MetaAutocast(TorchFunctionMode):
    """Casts the inputs of operations on the meta device, which has no autocast, to bf16 or float32 as a GPU's does.

    It is active where the autocast of the CPU is, see models.precision.full_precision.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = (args, kwargs or {})
        if torch.is_autocast_enabled("cpu") and function in (IN_BF16 | IN_FLOAT32):
            dtype = torch.bfloat16 if function in IN_BF16 else torch.float32
            inputs = tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
        return function(*inputs[0], **inputs[1])


def in_bf16(network: nn.Module) -> Callable[..., Any]:
    """Return a function that calls a network on the meta device as Runtime.run does on a real one in bf16."""

    def run(*inputs: Tensor, **options: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16), MetaAutocast():
            outputs = network(*inputs, **options)
        return tree_map(Tensor.float, outputs)

    return run
