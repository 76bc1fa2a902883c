"""Suggest the key or option nearest to a misspelled one."""

import difflib
from collections.abc import Sequence
from typing import Any


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the sentence " Did you mean ...?" with the most similar of the names, or "".

    A similar name below the same parent is preferred, then, if the parent has no keys, a similar full name, then the
    same last part below another parent.
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
