"""Sparse bags: against their twins, against differences, against scikit-learn, and their counted work."""

from __future__ import annotations

from typing import Any

import counted
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import bag, bag_fit, flops, reference_bag
from kernels.bag import Bag

Matrix = tuple[Bag, int]


def random_bag(rng: np.random.Generator, n: int, features: int, most: int, dtype: Any = np.float64) -> Bag:
    """`n` rows of up to `most` features with small whole values, duplicates and empty rows included."""
    lengths = rng.integers(0, most + 1, size=n)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = rng.integers(0, features, size=indptr[-1]).astype(np.int32)
    return Bag(indptr, indices, rng.integers(-3, 4, size=indptr[-1]).astype(dtype))


def dense(rows: Any, features: int) -> Any:
    return np.stack([reference_bag.bag_scores(unit, *rows) for unit in np.eye(features)], axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(n=st.integers(0, 8), features=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_scores_and_difference_agree_with_their_twins(n: int, features: int, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_bag(rng, n, features, 9, dtype), random_bag(rng, n, features, 9, dtype)
    weights = rng.normal(size=features).astype(dtype)
    scores = bag.bag_scores(weights, *a)
    assert scores.dtype == dtype
    np.testing.assert_allclose(scores, reference_bag.bag_scores(weights, *a), rtol=1e-5, atol=1e-5)

    merged = bag.bag_difference(a, b, features)
    assert merged.data.dtype == dtype
    assert (merged.data != 0).all()
    np.testing.assert_array_equal(dense(merged, features), dense(a, features) - dense(b, features))
    for i in range(n):
        row = merged.indices[merged.indptr[i] : merged.indptr[i + 1]]
        assert len(set(row.tolist())) == len(row)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient(l2: float, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    rows, weights = random_bag(rng, 30, 12, 9), rng.normal(size=12)
    weights[:2] = 50.0, -50.0  # margins far out
    result = bag.bradley_terry_bag(weights, *rows, l2, smoothing)
    loss, gradient = reference_bag.bradley_terry_bag(weights, *rows, l2, smoothing)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(result.d_weights, gradient, atol=1e-12)

    weights = rng.normal(size=12)
    gradient = bag.bradley_terry_bag(weights, *rows, l2, smoothing).d_weights
    for f, unit in enumerate(np.eye(12) * 1e-6):
        up = bag.bradley_terry_bag(weights + unit, *rows, l2, smoothing).loss
        down = bag.bradley_terry_bag(weights - unit, *rows, l2, smoothing).loss
        assert (up - down) / 2e-6 == pytest.approx(gradient[f], abs=1e-8)


def test_float32_stays_float32_and_inputs_stay_as_they_were() -> None:
    rng = np.random.default_rng(1)
    rows, weights = random_bag(rng, 9, 7, 5, np.float32), rng.normal(size=7).astype(np.float32)
    before = [array.copy() for array in (weights, *rows)]
    result = bag.bradley_terry_bag(weights, *rows, 0.1)
    bag_fit.fit_bradley_terry(*rows, 7, np.arange(9))
    assert result.d_weights.dtype == np.float32
    for array, copy in zip((weights, *rows), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("indptr", "indices", "data", "message"),
    [
        ([1, 2], [0, 1], [1.0, 1.0], "^indptr: "),
        ([0, 2, 1], [0, 1], [1.0, 1.0], "^indptr: "),
        ([[0, 2]], [0, 1], [1.0, 1.0], r"^indptr: came with shape \(1, 2\)"),
        ([0, 3], [0, 1], [1.0, 1.0], "^indices: .*3 non-zeros"),
        ([0, 2], [0, 9], [1.0, 1.0], "^indices: came with values from 0 to 9, 0 to 2 is needed"),
        ([0, 2], [0, -1], [1.0, 1.0], "^indices: came with values from -1 to 0"),
    ],
)
def test_malformed_bags_are_refused(indptr: Any, indices: Any, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bag.bag_scores(np.ones(3), indptr, indices, data)


class Unreadable:
    """Fails in a way of its own when it is read as an array."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array today")


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"weights": np.ones(3, complex)}, "weights"),
        ({"indptr": [0.0, 1.7]}, "indptr"),
        ({"indices": [0.0, 1.5]}, "indices"),
        ({"indices": Unreadable()}, "indices"),
        ({"data": [1j, 1j]}, "data"),
        ({"data": ["a", "b"]}, "data"),
        ({"out": [0.0]}, "out"),
    ],
)
def test_what_is_no_number_is_refused_not_truncated(wrong: Any, parameter: str) -> None:
    right = {"weights": np.ones(3), "indptr": [0, 2], "indices": [0, 1], "data": [1.0, 1.0]}
    with pytest.raises(TypeError, match=f"^{parameter}: "):
        bag.bag_scores(**{**right, **wrong})


def test_bag_scores_out_is_checked() -> None:
    rows = np.arange(4), np.array([2, 0, 1]), np.ones(3)
    weights, out = np.array([1.0, 2.0, 3.0]), np.empty(3)
    assert bag.bag_scores(weights, *rows, out=out) is out
    np.testing.assert_array_equal(out, [3.0, 1.0, 2.0])
    # too short was written past its end; int lost the fractions; an input was read after it was written
    for bad in (np.empty(1), np.empty((3, 1)), np.empty(3, int), np.empty(6)[::2], weights):
        with pytest.raises(ValueError, match=r"^out: "):
            bag.bag_scores(weights, *rows, out=bad)


@pytest.mark.parametrize(("name", "value"), [("l2", -1.0), ("l2", np.nan), ("label_smoothing", 0.6)])
def test_bradley_terry_bag_names_a_number_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        bag.bradley_terry_bag(np.ones(1), [0, 1], [0], [1.0], **{name: value})


def solvable(seed: int = 0, n: int = 200, features: int = 15) -> tuple[Bag, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    rows = bag.bag_difference(random_bag(rng, n, features, 12), random_bag(rng, n, features, 12), features)
    return rows, rng.permutation(n)


@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_fit_reaches_the_optimum(C: float) -> None:
    rows, order = solvable()
    fit = bag_fit.fit_bradley_terry(*rows, 15, order, C, tol=1e-13, max_epochs=20_000)
    exact = reference_bag.fit_bradley_terry(*rows, 15, order, C)
    np.testing.assert_allclose(fit.weights, exact, atol=2e-5 * (1 + np.abs(exact).max()))
    # the dual variables are those of the weights
    a = C / (1 + np.exp(fit.margins))
    np.testing.assert_allclose(dense(rows, 15).T @ a, fit.weights, atol=1e-6)


def test_the_duality_gap_is_below_what_the_fit_says() -> None:
    rows, order = solvable(3)
    for tol in (1e-1, 1e-2, 1e-3, 1e-5):
        fit = bag_fit.fit_bradley_terry(*rows, 15, order, 0.05, tol)
        gap = reference_bag.duality_gap(*rows, fit.margins, 0.05, 15)
        assert gap >= -1e-9
        assert gap <= 2 * tol * 0.05 * 200 * np.log(2)


def test_fit_agrees_with_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, order = solvable(5)
    x = dense(rows, 15)
    sign = np.where(np.arange(200) % 2, 1.0, -1.0)  # scikit-learn wants both labels
    model = linear_model.LogisticRegression(C=0.1, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(x * sign[:, None], sign)
    fit = bag_fit.fit_bradley_terry(*rows, 15, order, 0.1, tol=1e-13, max_epochs=20_000)
    np.testing.assert_allclose(fit.weights, model.coef_[0], atol=1e-4)


def test_a_warm_start_saves_work_and_changes_nothing() -> None:
    rows, order = solvable(7)
    first = bag_fit.fit_bradley_terry(*rows, 15, order, 0.03, tol=1e-9, max_epochs=10_000)
    warm = bag_fit.fit_bradley_terry(*rows, 15, order, 0.04, tol=1e-9, max_epochs=10_000, start=first)
    cold = bag_fit.fit_bradley_terry(*rows, 15, order, 0.04, tol=1e-9, max_epochs=10_000)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-4)
    assert warm.work.epochs <= cold.work.epochs
    again = bag_fit.fit_bradley_terry(*rows, 15, order, 0.04, tol=1e-9, max_epochs=10_000)
    np.testing.assert_array_equal(again.weights, cold.weights)


def test_pairs_that_say_nothing_and_pairs_that_say_everything() -> None:
    nothing = Bag(np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0))
    np.testing.assert_array_equal(bag_fit.fit_bradley_terry(*nothing, 3, np.arange(3)).weights, 0)
    huge = Bag(np.array([0, 1]), np.array([0], np.int32), np.array([1e6]))
    fit = bag_fit.fit_bradley_terry(*huge, 1, [0], C=100.0)
    assert np.isfinite(fit.weights).all()
    assert fit.weights[0] > 0


@pytest.mark.parametrize("order", [[0, 0, 1], [0, 1], [0, 1, 3]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    rows = random_bag(np.random.default_rng(0), 3, 4, 3)
    with pytest.raises(ValueError, match="permutation of 3"):
        bag_fit.fit_bradley_terry(*rows, 4, order)


@pytest.mark.parametrize("C", [0.0, -1.0, np.nan, np.inf])
def test_a_penalty_that_is_none_is_refused(C: float) -> None:
    rows = random_bag(np.random.default_rng(0), 3, 4, 3)
    with pytest.raises(ValueError, match=r"^C: came as"):
        bag_fit.fit_bradley_terry(*rows, 4, np.arange(3), C)


def test_token_scores_are_those_of_the_bag() -> None:
    rng = np.random.default_rng(2)
    tokens, mask = rng.integers(0, 9, (6, 5)), (rng.random((6, 5)) < 0.7).astype(np.float32)
    for buckets, factor in ((0, 0), (81, 9), (16, 7919)):
        weights = rng.normal(size=9 + buckets).astype(np.float32)
        width = 9 if buckets else 5
        indices, data = np.empty((6, width), np.int32), np.empty((6, width), np.float32)
        bag.token_bag_jit(9, buckets, factor, tokens, mask, indices, data)
        scores = np.empty(6, np.float32)
        bag.token_scores_jit(weights, 0.5, 9, buckets, factor, tokens, mask, scores)
        by_bag = bag.bag_scores(weights, np.arange(7) * width, indices.ravel(), data.ravel())
        np.testing.assert_allclose(scores, 0.5 + by_bag, rtol=1e-5, atol=1e-5)


def plain_python(function: Any) -> Any:
    return getattr(function, "py_func", function)


def recount(function: Any, *arguments: Any) -> tuple[int, int]:
    counted.reset()
    plain_python(function)(*arguments)
    return counted.counts()


def test_counted_work_is_the_work_done() -> None:
    rng = np.random.default_rng(4)
    n, features = 6, 9
    indices = np.concatenate([rng.permutation(features)[:5] for _ in range(n)])
    indptr, data = np.arange(n + 1) * 5, rng.integers(1, 4, size=5 * n) * rng.choice([-1.0, 1.0], size=5 * n)
    values, weights = counted.counted(data), counted.counted(rng.normal(size=features))

    def objects(shape: int, fill: float = 0.0) -> Any:
        return counted.counted(np.full(shape, fill))

    assert recount(bag.bag_scores_jit, weights, indptr, indices, values, objects(n)) == tuple(
        flops.work("bag_scores", 5 * n)
    )
    for l2 in (0.0, 0.5):
        done = recount(
            bag.bradley_terry_bag_jit,
            *(weights, indptr, indices, values, l2, 0.1, objects(features)),
        )
        assert done == tuple(flops.work("bradley_terry_bag", n, 5 * n, features if l2 else 0))

    tokens, mask = rng.integers(0, 3, (4, 3)), counted.counted(np.ones((4, 3)))
    for buckets in (0, 9):
        table = objects(3 + buckets, 0.5)
        done = recount(bag.token_scores_jit, table, 0.1, 3, buckets, 3, tokens, mask, objects(4))
        assert done == tuple(flops.work("token_scores", 4, 3, buckets))
        where, held = np.empty((4, 5), np.int64), np.empty((4, 5), object)
        done = recount(bag.token_bag_jit, 3, buckets, 3, tokens, mask, where, held)
        assert done == tuple(flops.work("token_bag", 4, 3, buckets))

    done = recount(
        bag.bag_difference_jit,
        *(indptr, indices, values, indptr, indices[::-1].copy(), values),
        *(objects(features), np.zeros(features, np.uint8)),
        *(np.zeros(n + 1, np.int64), np.zeros(10 * n, np.int64), np.empty(10 * n, object)),
    )
    assert done == tuple(flops.work("bag_difference", 5 * n, 5 * n))


@pytest.mark.parametrize("C", [0.05, 5.0])
def test_the_fit_counts_its_own_work(C: float) -> None:
    rng = np.random.default_rng(6)
    n, features = 8, 9
    indices = np.concatenate([rng.permutation(features)[:5] for _ in range(n)])
    indptr, data = np.arange(n + 1) * 5, rng.integers(1, 9, size=5 * n) * rng.choice([-1.0, 1.0], size=5 * n)
    counts = np.zeros(8, np.int64)

    def scratch() -> Any:
        return np.empty(n, object)

    done = recount(
        bag_fit.fit_bradley_terry_jit,
        *(indptr, indices, counted.counted(data), rng.permutation(2), C, 1e-4, 50),
        *(scratch(), scratch(), np.zeros(2, np.int64), np.zeros(2, np.int64)),
        *(counted.counted(np.zeros(features)), counted.counted(np.full(n, bag_fit.FAR)), counts),
    )
    work = bag_fit.FitWork(n, 5 * n, *counts.tolist())
    assert work.epochs > 1
    assert work.newtons > 0
    assert work.reads > work.steps
    assert done == tuple(flops.work("fit_bradley_terry", *work))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("C", {"C": 0.0}),
        ("C", {"C": "a"}),
        ("C", {"C": float("nan")}),
        ("tol", {"tol": float("nan")}),
        ("max_epochs", {"max_epochs": 0}),
        ("n_features", {"n_features": -1}),
        ("order", {"order": [0.5, 1.0]}),
        ("order", {"order": [0, 0]}),
        ("data", {"data": [1.0, float("nan")]}),
        ("data", {"data": [1.0, float("inf")]}),
    ],
)
def test_the_fit_names_what_is_wrong(name: str, wrong: dict[str, Any]) -> None:
    right = {"indptr": [0, 1, 2], "indices": [0, 1], "data": [1.0, 1.0], "n_features": 2, "order": [0, 1]}
    with pytest.raises((TypeError, ValueError), match=name):
        bag_fit.fit_bradley_terry(**(right | wrong))
