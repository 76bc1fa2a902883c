"""Arithmetic in config files."""

import pickle
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from gantrain.command.arithmetic import OPERATIONS, register_arithmetic


def resolved(expression: str, **values: Any) -> Any:
    register_arithmetic()
    return OmegaConf.create({"x": expression, "nested": {"size": 64, "zero": 0}} | values).x


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("${product:2,3,0.5}", 3.0),
        ("${product:2,${nested.size}}", 128),
        ("${ratio:1,4}", 0.25),
        ("${quotient:4096,${nested.size}}", 64),
        ("${quotient:7,2}", 3),
        ("${min:4,${nested.size}}", 4),
        ("${max:4,${product:2,${nested.size}}}", 128),
        ("${from:63,64,1,2}", 1),
        ("${from:${nested.size},64,1,2}", 2),
    ],
)
def test_operations_give_plain_numbers(expression: str, expected: float) -> None:
    value = resolved(expression)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("${product:2,${size}}", "x is computed from a number, but that is null here; set the number, for example"),
        ("${product:2,true}", "x is computed from a number, but that is True here"),
        ("${product:2,many}", "x is computed from a number, but that is many here"),
        ("${ratio:2,${nested.zero}}", r"nested\.zero=0: must be larger, .*; x is computed from it"),
        ("${ratio:2,0}", r"x cannot be computed by ratio of 2, 0 \(division by zero\)"),
        ("${from:1,2}", "x cannot be computed by from of 1, 2"),
    ],
)
def test_what_cannot_be_computed_is_an_error_for_the_user(expression: str, message: str) -> None:
    with pytest.raises(InterpolationResolutionError, match=f"ConfigError raised .*: {message}"):
        resolved(expression, size=None)


def test_operations_can_be_sent_to_the_processes_of_a_sweep() -> None:
    for function in OPERATIONS.values():
        assert pickle.loads(pickle.dumps(function)) is function
