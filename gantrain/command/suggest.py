"""Suggest the key or option that was probably meant."""

import difflib
from collections.abc import Sequence
from typing import Any


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest the nearest of the names, as a sentence, or nothing.

    One beside it comes first, then one of that very name elsewhere, then one below a parent of nearly that name.
    """
    parent, _, last = name.rpartition(".")
    beside = [n for n in names if n.rpartition(".")[0] == parent]
    elsewhere = [n for n in names if n.rpartition(".")[2] == last]
    candidates = difflib.get_close_matches(name, names if parent and not beside else [], n=1, cutoff=0.7)
    close = difflib.get_close_matches(last, [n.rpartition(".")[2] for n in beside], n=1, cutoff=0.7)
    candidates = [f"{parent}.{c}".lstrip(".") for c in close] or candidates or elsewhere
    return f" Did you mean {candidates[0]}?" if candidates else ""


def flat_keys(node: Any, prefix: str = "") -> list[str]:
    """List the dotted keys of a nested mapping."""
    if not isinstance(node, dict):
        return []
    return [k for name, value in node.items() for k in (f"{prefix}{name}", *flat_keys(value, f"{prefix}{name}."))]
