"""A substitute for CUDA graphs on the CPU: record operations, and replay them on the same memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantrain.engine import graphs
from gantrain.engine.runtime import Runtime
from gantrain.updates import Logs


class Tape(TorchDispatchMode):
    """Record operations with their arguments, and replay them on the same memory, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in storages((args, kwargs)):
            if storage.data_ptr() not in self.made | self.before.keys():
                self.before[storage.data_ptr()] = (storage, storage.clone())
        made = function(*args, **(kwargs or {}))
        self.made |= {storage.data_ptr() for storage in storages(made)}
        self.calls.append((function, args, kwargs or {}, made))
        return made

    def undo(self) -> None:
        """Restore the memory from before the recording, because a capture records operations without running them."""
        for storage, value in self.before.values():
            storage.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, recorded in self.calls:
            given = {storage.data_ptr() for storage in storages((args, kwargs))}
            made = function(*args, **kwargs)
            for output, value in zip(tree_leaves(recorded), tree_leaves(made), strict=True):
                if isinstance(output, Tensor) and output.untyped_storage().data_ptr() not in given:
                    output.copy_(value)


def storages(content: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(content) if isinstance(x, Tensor)]


class Tapes:
    """Replaces graphs.capture_graph, and counts the captures."""

    def __init__(self) -> None:
        self.captured = 0

    def record(self, function: Callable[[], Logs], _: torch.device) -> tuple[Callable[[], None], Logs]:
        random = torch.get_rng_state()
        with Tape() as tape:
            made = function()
        tape.undo()
        torch.set_rng_state(random)
        self.captured += 1
        return tape.replay, made


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tapes]:
    """Record all captures that follow on tapes, and return the counter."""

    def use() -> Tapes:
        tapes = Tapes()
        monkeypatch.setattr(graphs, "capture_graph", tapes.record)
        monkeypatch.setattr(graphs, "on_side_stream", lambda function, device: function())
        # Fused optimizers on a CPU count steps in tensors, and do not support capturable=True.
        monkeypatch.setattr(Runtime, "prepare", lambda self, state: None)
        return tapes

    return use
