"""Layer norm, GELU and attention go over vectors throughout: none of their loops computes number by number.

`test_hot_loops_are_packed` looks at the loops with most to do; here each one counts, so that not even a part, such as
the mean of layer norm, can fall back unseen.
"""

from __future__ import annotations

import nn_cases as table
import numpy as np
import pytest
from test_kernels_guards import (
    ARITHMETIC,
    LIBM,
    PACKED,
    X86,
    innermost_loops,
    optimised,
    pytestmark,  # noqa: F401
)

from kernels._jit import jit
from kernels._vecmath import fused, vector_loops

VECTORS = (
    "layer_norm",
    "layer_norm_backward",
    "residual_norm",
    "gelu",
    "gelu_over",
    "attention",
    "attention_backward",
    "attention_step",
)


def one_by_one(code):
    """The operations of each innermost loop that has some, and none of them packed; or calls the C library."""
    found = []
    for loop in innermost_loops(code):
        arithmetic = [(match[1], PACKED.search(line)) for line in loop if (match := ARITHMETIC.search(line))]
        library = [match[1] for line in loop if (match := LIBM.search(line))]
        if library or (arithmetic and not any(vector for _, vector in arithmetic)):
            found.append(sorted({operation for operation, _ in arithmetic} | set(library)))
    return found


@X86
@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_loop_goes_number_by_number(name, dtype):
    function, arguments = table.CASES[name](table.inputs(table.SIZES[1], dtype))
    function(*arguments)
    for signature in function.signatures:
        assert not one_by_one(optimised(function, signature)), signature


@fused
def norm_with_a_sum_in_order(x, out):
    """All but the mean is packed."""
    vector_loops()
    mean = x.dtype.type(0.0)
    for c in range(x.shape[0]):
        mean += x[c]
    for c in range(x.shape[0]):
        out[c] = (x[c] - mean) * x[c] + x[c] * x[c] * mean


@jit
def gelu_of_the_c_library(x, out):
    for c in range(x.shape[0]):
        out[c] = x[c] / (x.dtype.type(1.0) + np.exp(-x[c]))


@jit
def score_in_order(x, out):
    """Of one query and one key."""
    score = x.dtype.type(0.0)
    for c in range(x.shape[0]):
        score += x[c] * out[c]
    out[0] = score


@fused
def packed(x, out):
    vector_loops()
    for c in range(x.shape[0]):
        out[c] = x[c] * x[c] + x[c]


@X86
@pytest.mark.parametrize(
    "function", [norm_with_a_sum_in_order, gelu_of_the_c_library, score_in_order], ids=lambda f: f.__name__
)
def test_a_part_that_is_not_packed_is_noticed(function):
    assert one_by_one(code_of(function))


@X86
def test_what_is_left_over_from_a_packed_loop_is_all_that_a_packed_loop_shows():
    assert one_by_one(code_of(packed)) in ([], [["fadd", "fmul"]], [["fmuladd"]])


def code_of(function):
    function(np.ones(100, np.float32), np.ones(100, np.float32))
    return optimised(function, function.signatures[0])
