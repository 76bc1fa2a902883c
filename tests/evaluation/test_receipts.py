import pytest

from gantrain.evaluation.receipts import PROTOCOL, Receipt, differ, differences, in_words

RECEIPT: Receipt = {
    "score": "fid_digits",
    "options": {},
    "features": "digits",
    "weights_sha256": "ab" * 32,
    "resizer": "bilinear to 28 px",
    "precision": "float32",
    "num_generated": 5000,
    "num_real": 10_000,
    "split": "train",
    "fingerprint": "f0",
    "ema": False,
    "seed": 0,
    "versions": {"torch": "2.14.1"},
}


@pytest.mark.parametrize("key", PROTOCOL)
def test_numbers_of_different_protocols_cannot_be_compared(key: str) -> None:
    other = RECEIPT | {key: "another"}
    assert differences(RECEIPT, other) == [f"{key} {RECEIPT.get(key)} and another"]  # sampling is rarely named
    assert f"their protocols differ: {key} " in (differ(RECEIPT, other) or "")


@pytest.mark.parametrize("change", [{}, {"seed": 1}, {"ema": True}, {"versions": {"torch": "3"}}])
def test_seed_weights_and_versions_may_differ(change: Receipt) -> None:
    assert differ(RECEIPT, RECEIPT | change) is None


def test_unknown_receipts_match() -> None:
    assert differ(None, RECEIPT) is None
    assert differ(RECEIPT, None) is None


def test_receipt_in_words() -> None:
    words = in_words(RECEIPT)
    assert words == "digits features abababab, 5,000 generated against 10,000 real (train), current weights"
    vectors = {"num_generated": 10, "num_real": None, "ema": True}
    assert in_words(vectors) == "10 generated, EMA weights"


def test_images_that_no_generator_made_are_named_in_words() -> None:
    given = {"source": "fakes.zip", "sha256": "cd" * 32, "num_images": 7000}
    words = in_words(RECEIPT | {"ema": None, "seed": None, "split": None, "generated": given})
    assert words == "digits features abababab, 5,000 generated against 10,000 real, images cdcdcdcd of fakes.zip"
