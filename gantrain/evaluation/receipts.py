"""Receipts: the protocol by which a number was measured, without which two numbers cannot be compared."""

from typing import Any

Receipt = dict[str, Any]
"""The protocol of a number, and the circumstances of its measurement, as in run.json."""

PROTOCOL = (
    "score",
    "options",
    "features",
    "weights_sha256",
    "resizer",
    "precision",
    "num_generated",
    "num_real",
    "split",
    "fingerprint",
    "sampling",
)
"""Keys of a receipt that must be equal for two numbers to be compared; seed, EMA and versions may differ."""


def differences(a: Receipt, b: Receipt) -> list[str]:
    """List what differs between the protocols of two numbers, in words: "num_generated 5000 and 50000"."""
    return [f"{key} {a.get(key)} and {b.get(key)}" for key in PROTOCOL if a.get(key) != b.get(key)]


def differ(a: Receipt | None, b: Receipt | None) -> str | None:
    """Return why two numbers cannot be compared, or None if they can; unknown receipts, of earlier versions, match."""
    found = differences(a, b) if a and b else []
    return f"their protocols differ: {'; '.join(found)}" if found else None


def score_of_real_images(receipt: Receipt | None) -> float | None:
    """Return the score of real images from a receipt; None: it is not known, or the score is one of vectors."""
    return receipt.get("real") if receipt and receipt.get("features") else None


def in_words(receipt: Receipt) -> str:
    """Describe a receipt in a line, without the resizer, the fingerprint and the versions.

    For example "digits features 3f1a02b9, 5,000 generated against 10,000 real (train), EMA weights". Images that no
    generator of gantrain made have their path and the start of their SHA-256 instead of the weights.
    """
    sha = (receipt.get("weights_sha256") or "")[:8]
    features = f"{receipt['features']} features {sha}".rstrip() if receipt.get("features") else ""
    split = f" ({receipt['split']})" if receipt.get("split") else ""
    real = f" against {receipt['num_real']:,} real{split}" if receipt.get("num_real") else ""
    options = ", ".join(f"{name}={value}" for name, value in (receipt.get("options") or {}).items())
    weights = "EMA weights" if receipt["ema"] else "current weights"
    if given := receipt.get("generated"):
        weights = f"images {given['sha256'][:8]} of {given['source']}"
    counts = f"{receipt['num_generated']:,} generated{real}"
    return ", ".join(filter(None, [features, counts, options, weights, receipt.get("sampling")]))
