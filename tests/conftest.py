import gc
import os
import signal
import warnings
from importlib import import_module

import pytest
import torch
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from jaxtyping import install_import_hook

# Every annotated type and shape in gantrain is checked whenever a test calls it. An int passes for a float, as it does
# to mypy.
install_import_hook("gantrain", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)  # about OmegaConf's annotations
    import_module("gantrain.command.cli")

gc.collect()
gc.freeze()  # collections in the tests skip the objects of torch and of the libraries, which stay

# Under nohup, in some services and in the background of a script these are ignored, which processes inherit.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores already, and the processes that they start do too.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests: one worker takes them while the others take the rest."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
