"""A stand-in for CUDA graphs without a GPU: a tape of operations, replayed on the memory that they were given."""

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
    """What a CUDA graph is: the operations as they were asked for, on the memory that they were given."""

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
        """Put back all memory that was there before: a capture records operations and does not run them."""
        for storage, value in self.before.values():
            storage.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, held in self.calls:
            given = {storage.data_ptr() for storage in storages((args, kwargs))}
            made = function(*args, **kwargs)
            for place, value in zip(tree_leaves(held), tree_leaves(made), strict=True):
                if isinstance(place, Tensor) and place.untyped_storage().data_ptr() not in given:
                    place.copy_(value)


def storages(content: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(content) if isinstance(x, Tensor)]


class Tapes:
    """Takes the place of graphs.capture_graph, and counts."""

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
    """Have the updates that are captured from here on recorded on tapes, and return what counts them."""

    def use() -> Tapes:
        tapes = Tapes()
        monkeypatch.setattr(graphs, "capture_graph", tapes.record)
        monkeypatch.setattr(graphs, "on_side_stream", lambda function, device: function())
        # A CPU's optimizers count their steps in tensors when fused, and know no captures.
        monkeypatch.setattr(Runtime, "prepare", lambda self, state: None)
        return tapes

    return use
