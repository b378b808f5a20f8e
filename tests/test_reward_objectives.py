"""What reward models are trained to do: losses, the solver that follows them, and its count of its own work."""

from __future__ import annotations

import itertools
import math
from typing import Any

import counted
import numpy as np
import pytest
from differences import gradient

from kernels import flops
from kernels.bag import Bag
from kernels.preference import bradley_terry
from rlhfbench.rankings import Rankings, labels_of
from rlhfbench.rewards import bags, minimise
from rlhfbench.rewards.bags import BradleyTerryBags, RankedBags
from rlhfbench.rewards.bradley_terry import train_reward_model
from rlhfbench.rewards.objective import Objective
from rlhfbench.rewards.penalty import ranking_accuracy

PAIRS = [
    Objective(),
    Objective(temperature=2.0),
    Objective(smoothing=0.1),
    Objective(noise=0.2),
    Objective(centering=0.3),
    Objective(margin=3.0),
    Objective(temperature=0.7, noise=0.1, centering=0.1, margin=1.0),
]
LISTS = [
    Objective(),
    Objective(temperature=2.0),
    Objective(listwise=False),
    Objective(listwise=False, noise=0.2),
]


@pytest.mark.parametrize(("objective", "K"), [(o, 2) for o in PAIRS] + [(o, 4) for o in LISTS], ids=str)
def test_gradients_by_central_differences(objective: Objective, K: int) -> None:
    rng = np.random.default_rng(0)
    scores, strength = rng.normal(size=(5, K)), rng.random(5)
    found = objective(scores, strength)
    wanted = gradient(lambda x: objective(x.reshape(5, K), strength).loss, scores.ravel())
    np.testing.assert_allclose(found.d_scores.ravel(), wanted, atol=1e-8)
    single = objective(scores.astype(np.float32), strength)
    assert single.d_scores.dtype == np.float32
    np.testing.assert_allclose(single.d_scores, found.d_scores, atol=1e-6)


def test_what_the_losses_are_least_at() -> None:
    """With labels turned with probability f, the likelihood that knows f is least at the true difference."""
    D, f = 1.3, 0.2
    right = (1 - f) / (1 + math.exp(-D)) + f / (1 + math.exp(D))

    def expected(objective: Objective, d: float) -> float:
        losses = [objective(np.array([pair])).loss for pair in ([d, 0.0], [0.0, d])]
        return right * losses[0] + (1 - right) * losses[1]

    grid = np.linspace(0, 3, 301)
    least = {
        o: grid[np.argmin([expected(o, d) for d in grid])]
        for o in (Objective(), Objective(noise=f), Objective(temperature=2.0, noise=f))
    }
    assert [round(float(d), 2) for d in least.values()] == [
        pytest.approx(math.log(right / (1 - right)), abs=0.01),
        pytest.approx(D, abs=0.01),
        pytest.approx(2 * D, abs=0.01),
    ]


def test_rankings_of_two_are_pairs_and_pairs_are_averaged() -> None:
    scores = np.random.default_rng(1).normal(size=(6, 4))
    pair = Objective()(scores[:, :2])
    assert pair.loss == pytest.approx(bradley_terry(scores[:, 0], scores[:, 1]).loss)
    all_pairs = [
        bradley_terry(scores[:, i], scores[:, j]).loss for i, j in itertools.combinations(range(4), 2)
    ]
    assert Objective(listwise=False)(scores).loss == pytest.approx(np.mean(all_pairs))
    # the likelihoods of all orders of three replies sum to one
    orders = [list(order) for order in itertools.permutations(range(3))]
    total = sum(math.exp(-Objective()(scores[:1, order]).loss) for order in orders)
    assert total == pytest.approx(1.0)


def test_a_margin_needs_a_strength() -> None:
    with pytest.raises(ValueError, match="margin: came as 1 for comparisons without a strength, 0 is needed"):
        Objective(margin=1.0)(np.zeros((2, 2)))


def test_the_labels_of_a_ranking() -> None:
    for K in range(2, 12):
        assert 2 ** (labels_of(K) - 1) < math.factorial(K) <= 2 ** labels_of(K)
    ranked = Rankings(np.zeros((3, 1), int), np.zeros((3, 4, 2), int), np.ones((3, 4, 2)))
    assert (ranked.labels, ranked.replies, len(ranked.take(np.array([1])))) == (15, 4, 1)


def random_bags(n: int, F: int, rng: np.random.Generator, K: int = 2) -> Bag:
    rows = [rng.choice(F, size=4, replace=False) for _ in range(n * K)]
    data = rng.normal(size=n * K * 4).astype(np.float32)
    return Bag(np.arange(n * K + 1) * 4, np.concatenate(rows).astype(np.int32), data)


def test_the_general_solver_finds_what_the_dual_one_does() -> None:
    rng = np.random.default_rng(0)
    n, F = 300, 12
    replies = random_bags(n, F, rng)
    difference = bags.bag_difference(*(bags.take_rows(replies, np.arange(k, 2 * n, 2)) for k in range(2)), F)
    order = rng.permutation(n)
    for C in (0.01, 0.3, 10.0):
        wanted = bags.fit_bradley_terry(*difference, F, order, C, tol=1e-9).weights
        found, _ = RankedBags(replies, F, 2, Objective(), None).fit(C, order, None)
        np.testing.assert_allclose(found.weights, wanted, atol=2e-3)
        start, _ = BradleyTerryBags(difference, F).fit(C, order, None)
        np.testing.assert_allclose(start.weights, wanted, atol=0.1)


@pytest.mark.parametrize("objective", LISTS, ids=str)
def test_rankings_are_learnt(objective: Objective) -> None:
    rng = np.random.default_rng(0)
    weights, tokens = rng.normal(size=8), rng.integers(8, size=(400, 4, 5))
    utility = weights[tokens].sum(axis=2) + rng.gumbel(size=(400, 4))
    order = np.argsort(-utility, axis=1)[:, :, None]
    ranked = Rankings(
        np.zeros((400, 1), np.int64), np.take_along_axis(tokens, order, 1), np.ones((400, 4, 5), np.float32)
    )
    model, training = train_reward_model(ranked, vocab_size=8, objective=objective, rng=rng)
    assert np.corrcoef(model.weights, weights)[0, 1] > 0.98
    assert training.accuracy is not None
    assert training.accuracy > 0.7
    again, _ = train_reward_model(ranked, vocab_size=8, objective=objective, rng=np.random.default_rng(5))
    np.testing.assert_allclose(
        again.weights / again.weights.std(), model.weights / model.weights.std(), atol=0.1
    )


def test_turned_labels_weigh_less_where_the_loss_knows_of_them() -> None:
    """A few long misordered pairs: plain Bradley-Terry follows them further than the likelihood with turned labels."""
    n, F = 200, 2
    chosen = np.tile([1.0, 0.0], (n, 1))
    chosen[:20] = [-8.0, 0.0]
    data = np.stack([chosen, np.zeros((n, F))], axis=1).reshape(-1).astype(np.float32)
    replies = Bag(np.arange(2 * n + 1) * 2, np.tile([0, 1], 2 * n).astype(np.int32), data)
    plain, aware = (
        RankedBags(replies, F, 2, o, None).fit(10.0, np.arange(n), None)[0].weights[0]
        for o in (Objective(temperature=1.0 + 1e-9), Objective(noise=0.1))
    )
    assert plain < 0.3 < 1.0 < aware


def test_accuracy_of_rankings() -> None:
    assert ranking_accuracy(np.array([[3.0, 2.0, 1.0]])) == 1
    assert ranking_accuracy(np.array([[1.0, 2.0, 2.0]])) == pytest.approx(0.5 / 3)


def quadratic(x: Any) -> tuple[Any, Any, flops.Work]:
    """A bowl that is a hundred times as steep one way; its work is not what is counted here."""
    steep = np.geomspace(1, 100, len(x))
    values = np.array([counted.value(each) for each in x])
    return float(0.5 * values @ (steep * values)), counted.counted(steep * values), flops.Work(0, 0)


def test_the_solver_goes_to_the_bottom_and_counts_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    dot = minimise.Tally.dot
    monkeypatch.setattr(minimise.Tally, "dot", lambda self, a, b: counted.value(dot(self, a, b)))
    counted.reset()
    found = minimise.minimise(quadratic, counted.counted(np.ones(6)), tolerance=1e-6)
    assert counted.counts() == tuple(found.work)
    assert max(abs(counted.value(x)) for x in found.x) < 1e-5
    assert found.slope <= 1e-6
    assert found.evaluations < 60


def test_the_fit_counts_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function beside the kernels': spreading the gradient over features, and the penalty."""
    replies = random_bags(5, 6, np.random.default_rng(0))
    seen: list[tuple[tuple[int, int], flops.Work]] = []

    def look(function: Any, start: Any, **options: Any) -> Any:
        counted.reset()
        *_, work = function(counted.counted(np.ones(6)))
        seen.append((counted.counts(), work))
        return minimise.Minimum(np.zeros(6), 0.0, 0.0, 1, flops.Work(0, 0))

    def bincount(indices: Any, weights: Any, size: int) -> Any:
        out = counted.counted(np.zeros(size))
        for index, weight in zip(indices, weights, strict=True):
            out[index] = out[index] + weight
        return out

    plain_scores = bags.bag_scores
    values = lambda array: np.array([counted.value(x) for x in array])  # noqa: E731
    monkeypatch.setattr(counted.Counted, "__float__", lambda x: float(x.value), raising=False)
    monkeypatch.setattr(bags, "minimise", look)
    monkeypatch.setattr(bags, "bag_scores", lambda w, *bag: plain_scores(values(w), *bag))
    monkeypatch.setattr(bags.np, "bincount", bincount)

    class Watched(Objective):
        def __call__(self, scores: Any, strength: Any = None) -> Any:
            found = super().__call__(scores, strength)
            return found._replace(d_scores=counted.counted(found.d_scores))

    RankedBags(replies, 6, 2, Watched(), None).fit(1.0, np.arange(5), None)
    ((executed, charged),) = seen
    kernels = flops.work("bag_scores", len(replies.data)) + flops.work("bradley_terry", 5, 1)
    assert executed == (charged.flops - kernels.flops, charged.transcendentals - kernels.transcendentals)
