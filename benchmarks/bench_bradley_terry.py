"""The Bradley-Terry fit against scikit-learn, on the same feature differences, at the same held-out log loss.

    pytest benchmarks/bench_bradley_terry.py --benchmark-enable

8,401 pairs of arguments, hashed unigrams, C = 0.01, one thread, text handling on neither side's clock. scikit-learn
gets the matrix twice: as it is hashed, and without the columns that are empty, which is the kinder case for it (its
vectors are dense). The table's ratios are the result; every fit has to reach the same held-out log loss first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from kernels.bag import Bag, bag_difference
from kernels.bag_fit import fit_bradley_terry
from rlhfbench.data import read_pairs
from rlhfbench.text import Hasher

C = 0.01
BITS = 16
SAME = 2e-3
"""Held-out log losses, nats, that are called the same: a fifth of their standard error over the 3,023 pairs."""


class Differences(NamedTuple):
    """Chosen minus rejected, to train and to test on, and the number of features."""

    train: Bag
    test: Bag
    features: int


@pytest.fixture(scope="module")
def hashed(data_dir: Path) -> Differences:
    hasher = Hasher(BITS)
    bags = []
    for part in ("train", "test"):
        pairs = read_pairs(data_dir / f"ukp_convarg.{part}.jsonl").pairs
        chosen, rejected = hasher.bag(p.chosen for p in pairs), hasher.bag(p.rejected for p in pairs)
        bags.append(bag_difference(chosen, rejected, hasher.size))
    return Differences(bags[0], bags[1], hasher.size)


@pytest.fixture(scope="module")
def compact(hashed: Differences) -> Differences:
    """Only columns that occur in training; a test pair's other words have weight 0 anyway."""
    seen = np.unique(hashed.train.indices)
    column = np.full(hashed.features, -1, np.int32)
    column[seen] = np.arange(len(seen))
    train = hashed.train._replace(indices=column[hashed.train.indices])
    known = column[hashed.test.indices] >= 0
    rows = np.repeat(np.arange(len(hashed.test.indptr) - 1), np.diff(hashed.test.indptr))[known]
    indptr = np.searchsorted(rows, np.arange(len(hashed.test.indptr)))
    return Differences(
        train, Bag(indptr, column[hashed.test.indices[known]], hashed.test.data[known]), len(seen)
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1):
        yield


def held_out_log_loss(weights: Any, differences: Differences) -> float:
    bag = differences.test
    rows = np.repeat(np.arange(len(bag.indptr) - 1), np.diff(bag.indptr))
    margins = np.bincount(rows, weights[bag.indices] * bag.data, minlength=len(bag.indptr) - 1)
    return float(np.logaddexp(0.0, -margins).mean())


def ours(differences: Differences) -> Callable[[], Any]:
    order = np.random.default_rng(0).permutation(len(differences.train.indptr) - 1)
    return lambda: fit_bradley_terry(*differences.train, differences.features, order, C).weights


def scikit_learn(solver: str) -> Callable[[Differences], Callable[[], Any]]:
    def prepare(differences: Differences) -> Callable[[], Any]:
        sparse = pytest.importorskip("scipy.sparse")
        linear_model = pytest.importorskip("sklearn.linear_model")
        bag = differences.train
        n = len(bag.indptr) - 1
        # it wants both labels, so every other pair is turned round; float64 is what liblinear converts to
        sign = np.where(np.arange(n) % 2, 1.0, -1.0)
        data = bag.data.astype(np.float64) * np.repeat(sign, np.diff(bag.indptr))
        x = sparse.csr_matrix((data, bag.indices, bag.indptr), shape=(n, differences.features))
        model = linear_model.LogisticRegression(solver=solver, C=C, fit_intercept=False)
        return lambda: model.fit(x, sign).coef_[0]

    return prepare


FITS = {"rlhfbench": ours, "lbfgs": scikit_learn("lbfgs"), "liblinear": scikit_learn("liblinear")}


@pytest.mark.benchmark(min_rounds=7)
@pytest.mark.parametrize("columns", ["hashed", "compact"])
@pytest.mark.parametrize("name", FITS)
def test_fit(name: str, columns: str, request: pytest.FixtureRequest, benchmark: Any) -> None:
    differences: Differences = request.getfixturevalue(columns)
    reference = held_out_log_loss(fit_to_the_end(differences), differences)
    fit = FITS[name](differences)
    loss = held_out_log_loss(fit(), differences)  # and warms up
    assert abs(loss - reference) < SAME
    benchmark.group = f"ukp_convarg, {columns} columns"
    benchmark.extra_info |= {
        "held_out_log_loss": loss,
        "optimum": reference,
        "features": differences.features,
    }
    benchmark(fit)


def fit_to_the_end(differences: Differences) -> Any:
    order = np.arange(len(differences.train.indptr) - 1)
    return fit_bradley_terry(
        *differences.train, differences.features, order[::-1], C, tol=1e-7, max_epochs=2000
    ).weights
