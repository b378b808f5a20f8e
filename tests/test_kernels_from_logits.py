"""Losses from logits against their twins: masks, ignored tokens, temperatures, memory, wrong input."""

from __future__ import annotations

import tracemalloc

import numba
import numpy as np
import pytest
from differences import assert_gradient
from hypothesis import example, given
from hypothesis import strategies as st

from kernels import from_logits as f
from kernels import reference_from_logits as twins

JIT = not numba.config.DISABLE_JIT
# Without the JIT NumPy says so when it meets infinities and NaN.
pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")] * (not JIT)
NAMES = ("sft", "ppo", "grpo", "dpo")
LOSS = pytest.mark.parametrize("name", NAMES)
IGNORED = -100


def responses(rng, B, T, V, dtype, spread=3.0):
    """Logits, tokens, of which some are ignored, and a fractional mask with a response that is all padding."""
    tokens = rng.integers(0, V, (B, T))
    tokens[rng.random((B, T)) < 0.15] = IGNORED
    mask = np.where(rng.random((B, T)) < 0.7, rng.choice([0.25, 1.0, 2.0], (B, T)), 0.0)
    if B > 1:
        mask[-1] = 0
    return (spread * rng.standard_normal((B, T, V))).astype(dtype), tokens, mask.astype(dtype)


def arguments(name, rng, B, T, V, dtype, **options):
    """What a loss is called with."""
    x, tokens, mask = responses(rng, B, T, V, dtype)
    if name == "sft":
        return {"logits": x, "tokens": tokens, "mask": mask, **options}
    if name == "dpo":
        y, others, other_mask = responses(rng, B, T + 1, V, dtype)
        refs = {k: (-rng.random(B) * T).astype(dtype) for k in ("ref_chosen", "ref_rejected")}
        logits = {"chosen_logits": x, "rejected_logits": y}
        given = {"chosen_tokens": tokens, "rejected_tokens": others, "beta": 0.3}
        return {**logits, **given, **refs, "chosen_mask": mask, "rejected_mask": other_mask, **options}
    old = (twins.sft_from_logits(x, tokens, mask).logprobs + 0.3 * rng.standard_normal((B, T))).astype(dtype)
    each = rng.standard_normal(B if name == "grpo" else (B, T)).astype(dtype)
    common = {"logits": x, "tokens": tokens, "old_logprobs": old, "advantages": each, "mask": mask}
    return {**common, "cliprange": 0.2, **options}


def loss(name, kwargs, module=f):
    return getattr(module, f"{name}_from_logits")(**kwargs)


def assert_same(found, expected):
    for field, got, want in zip(found._fields, found, expected, strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes(), field


def assert_near(found, expected, tolerance):
    for field, got, want in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=field)


def options_of(name, draw):
    options = {"temperature": draw(st.sampled_from([1.0, 0.7, 3.0]))}
    if name == "dpo":
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
    if name == "grpo":
        options["loss_type"] = draw(st.sampled_from(["grpo", "bnpo", "dr_grpo"]))
        options["cliprange_high"] = draw(st.sampled_from([None, 0.3]))
        options["beta"] = draw(st.sampled_from([0.0, 0.1]))
    return options


@LOSS
@given(st.data())
def test_agrees_with_its_twin(name, data):
    B, T = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    V = data.draw(st.one_of(st.integers(1, 9), st.integers(62, 66), st.sampled_from([128, 2048, 2049, 5000])))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kwargs = arguments(name, rng, B, T, V, np.float64, **options_of(name, data.draw))
    if name == "grpo" and data.draw(st.booleans()):
        kwargs["ref_logprobs"] = kwargs["old_logprobs"] + 0.1
    elif kwargs.get("beta") and name == "grpo":
        kwargs["beta"] = 0.0
    for mask in ("mask", "chosen_mask", "rejected_mask"):
        if mask in kwargs:
            kwargs[mask] = data.draw(st.sampled_from([kwargs[mask], None, np.zeros_like(kwargs[mask])]))
    assert_near(loss(name, kwargs), loss(name, kwargs, twins), 1e-10)


@LOSS
@pytest.mark.parametrize("V", [7, 65, 5000])
def test_float32_is_near_float64(name, V):
    kwargs = arguments(name, np.random.default_rng(V), 4, 5, V, np.float32, temperature=0.8)
    if "cliprange" in kwargs:
        kwargs["cliprange"] = 100.0  # one precision may clip where the other does not
    found = loss(name, kwargs)
    assert_near(found, loss(name, kwargs, twins), 2e-5)
    assert {a.dtype for a in found if isinstance(a, np.ndarray)} == {np.dtype(np.float32)}


@LOSS
@pytest.mark.parametrize(("V", "options"), [(1, {}), (5, {}), (5, {"temperature": 0.6})])
def test_gradients(name, V, options):
    kwargs = arguments(name, np.random.default_rng(0), 3, 2, V, np.float64, **options)
    found = loss(name, kwargs)
    for key, claimed in found._asdict().items():
        if key.startswith("d_"):
            assert_gradient(
                lambda z, key=key: loss(name, {**kwargs, key[2:]: z}).loss, kwargs[key[2:]], claimed
            )


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_gradient_of_grpo_with_kl(loss_type):
    kwargs = arguments("grpo", np.random.default_rng(1), 3, 4, 5, np.float64, beta=0.2, loss_type=loss_type)
    kwargs["ref_logprobs"] = kwargs["old_logprobs"] - 0.2
    assert_gradient(
        lambda z: f.grpo_from_logits(**{**kwargs, "logits": z}).loss,
        kwargs["logits"],
        f.grpo_from_logits(**kwargs).d_logits,
    )


@LOSS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_masked_is_not_looked_at(name, dtype):
    kwargs = arguments(name, np.random.default_rng(2), 4, 6, 70, dtype)
    expected = loss(name, kwargs)
    dirty = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    for prefix in ("", "chosen_", "rejected_"):
        if f"{prefix}mask" not in kwargs:
            continue
        off, tokens = dirty[f"{prefix}mask"] == 0, dirty[f"{prefix}tokens"]
        dead = off | (tokens == IGNORED)
        assert dead.any()
        assert not dead.all()
        dirty[f"{prefix}logits"][dead] = [[np.nan, np.inf, -np.inf] * 23 + [0]]
        tokens[off] = np.resize([-7, 70, 2**62, -(2**63)], off.sum())
        for column in ("old_logprobs", "advantages") if name == "ppo" else ():
            dirty[column][dead] = np.nan
        gradient = loss(name, dirty)._asdict()[f"d_{prefix}logits"]
        assert not gradient[dead].any()
        assert not np.signbit(gradient[dead]).any()
        assert gradient[~dead].any()
    assert_same(loss(name, dirty), expected)


@LOSS
def test_nothing_but_padding(name):
    kwargs = arguments(name, np.random.default_rng(3), 2, 3, 4, np.float32)
    kwargs.update({k: np.zeros_like(v) for k, v in kwargs.items() if k.endswith("mask")})
    found = loss(name, kwargs)
    assert np.isfinite(found.loss)
    for array in (a for k, a in found._asdict().items() if k.startswith("d_")):
        assert not array.any()


@LOSS
def test_nan_where_it_counts_stays(name):
    kwargs = arguments(name, np.random.default_rng(4), 2, 3, 70, np.float64)
    key, mask, tokens = (("chosen_" if name == "dpo" else "") + k for k in ("logits", "mask", "tokens"))
    kwargs[mask][:], kwargs[tokens][:] = 1, 0
    kwargs[key][0, 0, 69] = np.nan
    found = loss(name, kwargs)
    assert np.isnan(found.loss)
    assert np.isnan(found._asdict()[f"d_{key}"][0, 0]).all()


@LOSS
def test_takes_the_place_of_the_logits(name):
    kwargs = arguments(name, np.random.default_rng(5), 3, 4, 65, np.float32)
    expected = loss(name, kwargs)
    keys = [k for k in kwargs if k.endswith("logits")]
    given = {k: kwargs[k].copy() for k in keys}
    outs = tuple(given.values())
    found = loss(name, {**kwargs, **given, "out": outs if name == "dpo" else outs[0]})
    assert_same(found, expected)
    for key in keys:
        assert found._asdict()[f"d_{key}"] is given[key]


@LOSS
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [np.s_[:3, :-1], np.s_[:3, 1:, 2:-1], np.s_[::-2, :-1, :-3]])
def test_rows_of_out_may_lie_apart(name, place, threads):
    kwargs = arguments(name, np.random.default_rng(5), 3, 4, 65, np.float32, threads=threads)
    expected = loss(name, kwargs)
    key = "chosen_logits" if name == "dpo" else "logits"
    for taken in (False, True):  # memory of its own, the logits' own
        around = np.full((6, 5, 68), np.float32(7))
        out = around[place][..., :65]
        inside = around.copy()
        inside[place][..., :65] = expected._asdict()[f"d_{key}"]
        given = {key: kwargs[key]}
        if taken:
            out[:] = kwargs[key]
            given = {key: out}
        found = loss(name, {**kwargs, **given, "out": (out, None) if name == "dpo" else out})
        assert_same(found, expected)
        np.testing.assert_array_equal(around, inside)


@LOSS
def test_out_is_checked(name):
    kwargs = arguments(name, np.random.default_rng(6), 3, 4, 5, np.float64)
    key = "chosen_logits" if name == "dpo" else "logits"
    x = kwargs[key]
    whole = np.zeros(x.size + 5)
    whole[5:] = x.ravel()
    shifted = whole[5:].reshape(x.shape)
    frozen = x.copy()
    frozen.flags.writeable = False
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    gaps, same = (
        np.zeros((3, 4, 10))[..., ::2],
        np.lib.stride_tricks.as_strided(np.zeros(8), x.shape, (0, 8, 8)),
    )
    short, narrow = np.empty_like(x)[:2], x.astype(np.float32)
    overlapping = [(whole[:-5].reshape(x.shape), shifted), (x[::-1], x), (x.swapaxes(0, 1), x)]
    wrong = [(o, x, ValueError) for o in (short, narrow, frozen, gaps, same, unaligned, x.view(np.int64))]
    wrong += [(o, z, ValueError) for o, z in overlapping]
    wrong += [(o, x, TypeError) for o in (x.tolist(), "x", 3, object())]
    for out, logits, error in wrong:
        out = (out, None) if name == "dpo" else out
        with pytest.raises(error, match=r"^out: "):
            loss(name, {**kwargs, key: logits, "out": out})


def test_out_of_dpo_is_two_arrays_apart():
    kwargs = arguments("dpo", np.random.default_rng(7), 2, 3, 4, np.float32)
    x = kwargs["chosen_logits"]
    kwargs.update(rejected_logits=x.copy(), rejected_tokens=kwargs["chosen_tokens"], rejected_mask=None)
    y = kwargs["rejected_logits"]
    for out in ((y, x), (y, None), (None, x), (x, x), (np.empty_like(x),) * 2):
        with pytest.raises(ValueError, match=r"^out: "):
            f.dpo_from_logits(**{**kwargs, "out": out})
    for out in (None, [None, None], (None,), (None, None, None), x):
        with pytest.raises(TypeError, match=r"^out: "):
            f.dpo_from_logits(**{**kwargs, "out": out})
    both = np.concatenate([x, y])  # halves of one batch
    halves = {"chosen_logits": both[:2], "rejected_logits": both[2:], "out": (both[:2], both[2:])}
    assert_same(f.dpo_from_logits(**{**kwargs, **halves}), f.dpo_from_logits(**kwargs))


@LOSS
@given(B=st.integers(1, 5), T=st.integers(1, 4), V=st.sampled_from([1, 3, 65]), seed=st.integers(0, 99))
@example(B=0, T=3, V=4, seed=0)
@example(B=3, T=1, V=3, seed=0)
def test_threads_and_strides_do_not_change_a_bit(name, B, T, V, seed):
    if name == "dpo" and B == 0:
        return  # refused: a mean over no pairs
    kwargs = arguments(name, np.random.default_rng(seed), B, T, V, np.float32)
    expected = loss(name, kwargs)
    for threads in (2, 3, 1000):
        assert_same(loss(name, {**kwargs, "threads": threads}), expected)
    for view in (_padded, _shifted, _reversed, _counted_anew):
        other = {k: view(v) if k.endswith("logits") else v for k, v in kwargs.items()}
        assert_same(loss(name, {**other, "threads": 1 + seed % 2}), expected)


def _padded(x):
    """Rows of a larger vocabulary."""
    return np.pad(x, ((0, 0), (0, 0), (0, 3)), constant_values=np.nan)[..., : x.shape[-1]]


def _shifted(x):
    """All but the last position, as next-token losses take them."""
    return np.pad(x, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)[:, :-1]


def _counted_anew(x):
    """In C order, but for the stride of an axis of length 1, which is 0."""
    return x.reshape(x.shape[0], x.shape[2])[:, None] if x.shape[1] == 1 else x


def _reversed(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


@pytest.mark.skipif(not JIT, reason="plain Python makes arrays of its own")
@LOSS
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_second_array_of_the_logits_size(name, dtype):
    kwargs = arguments(name, np.random.default_rng(8), 4, 8, 4096, dtype)
    logits = {k: v for k, v in kwargs.items() if k.endswith("logits")}
    outs = tuple(logits.values()) if name == "dpo" else kwargs["logits"]
    size = sum(a.size * 4 for a in logits.values())
    for out, most in ((None, 1.1 * size), (outs, 0.1 * size)):
        options = {} if out is None else {"out": out}
        loss(name, {**kwargs, **options})  # compiles
        tracemalloc.start()
        loss(name, {**kwargs, **options})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


@pytest.mark.parametrize("T", [0, 1])
def test_empty_responses(T):
    """A response of no tokens has log-probability 0."""
    x, t = np.zeros((2, T, 3)), np.zeros((2, T), int)
    refs = [np.array([-1.0, 0.0]), np.array([0.0, -1.0])]
    found = f.dpo_from_logits(x[:, :0], x, t[:, :0], t, *refs, beta=0.5)
    assert found.chosen_logprobs.tolist() == [0, 0]
    assert_near(found, twins.dpo_from_logits(x[:, :0], x, t[:, :0], t, *refs, beta=0.5), 1e-12)
    assert f.sft_from_logits(x, t, np.zeros((2, T))).loss == 0


X, T, M, D = np.zeros((2, 3, 4)), np.zeros((2, 3), int), np.ones((2, 3)), np.zeros(2)
WRONG = [
    *(
        (loss, {"temperature": v})
        for loss in NAMES
        for v in (0.0, -1.0, np.nan, np.inf, 1e-31, 1e31, "1", None)
    ),
    *((loss, {"threads": v}) for loss in NAMES for v in (0, -1, 1.5, 1.0, True, "2", None, 2**70)),
    *((loss, {"ignore_index": v}) for loss in NAMES for v in (None, 1.5, "x", 2**63)),
    *(
        (loss, {"mask": v})
        for loss in NAMES
        for v in (-M, M * np.nan, M * np.inf, M[:1], M[..., None], "m", M * 1j)
    ),
    *((loss, {"mask": np.full((2, 3), 1e308)}) for loss in NAMES),
    *(
        (loss, {"tokens": v})
        for loss in NAMES
        for v in (T + 4, T - 1, T[:1], T[..., None], T * 0.5, "t", None)
    ),
    *((loss, {"tokens": T.astype(np.uint64) + np.uint64(2**64 - 100)}) for loss in NAMES),
    *((loss, {"logits": v}) for loss in NAMES for v in (X[..., :0], 1.0, X * 1j, None, [[1.0], [1.0, 2.0]])),
    *((loss, {"old_logprobs": v}) for loss in ("ppo", "grpo") for v in (M[:1], None, "x", M.astype("M8[s]"))),
    *((loss, {"advantages": v}) for loss in ("ppo", "grpo") for v in (M[:1, :1], None, 1.0)),
    *((loss, {"cliprange": v}) for loss in ("ppo", "grpo") for v in (-0.1, np.nan, None, "x", 1j)),
    *(("grpo", {"cliprange_high": v}) for v in (-0.1, np.nan, "x", [0.2])),
    *(("grpo", {"loss_type": v}) for v in ("dapo", None, 1, [])),
    *(("grpo", {"beta": v}) for v in (-1.0, np.nan, None)),
    ("grpo", {"ref_logprobs": M[:1]}),
    *(("dpo", {"beta": v}) for v in (0.0, -1.0, np.nan, None, np.complex64(1))),
    *(("dpo", {"label_smoothing": v}) for v in (-0.1, 1.1, np.nan, None)),
    *(("dpo", {"ref_chosen": v}) for v in (D[:1], M, None, "x")),
    *(("dpo", {"ref_rejected": v}) for v in (D[:1], M, None)),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_input_is_named(name, wrong):
    per_token = {"old_logprobs": M, "advantages": D if name == "grpo" else M, "cliprange": 0.2}
    right = {"logits": X, "tokens": T, "mask": M, **(per_token if name in {"ppo", "grpo"} else {})}
    if name == "dpo":
        right = {f"{side}_{k}": v for side in ("rejected", "chosen") for k, v in right.items()}
        right = {**right, "ref_chosen": D, "ref_rejected": D, "beta": 0.1}
        wrong = {f"rejected_{k}" if k in {"logits", "tokens", "mask"} else k: v for k, v in wrong.items()}
    loss(name, right)
    (parameter,) = wrong
    with pytest.raises((TypeError, ValueError), match=rf"^{parameter}: "):
        loss(name, {**right, **wrong})


def test_a_reference_is_needed_for_kl():
    with pytest.raises(ValueError, match=r"^ref_logprobs: "):
        f.grpo_from_logits(X, T, M, D, M, 0.2, beta=0.1)
    with pytest.raises(ValueError, match=r"^ref_chosen: "):
        f.dpo_from_logits(X[:0], X[:0], T[:0], T[:0], D[:0], D[:0], 0.1)


def test_a_token_may_be_impossible():
    x = np.array([[0.0, -np.inf, 1.0], [0.0, 0.0, 0.0]])
    found = f.sft_from_logits(x, [1, 0])
    assert found.loss == np.inf
    assert np.isfinite(found.d_logits).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_one_side_of_the_pairs_may_be_empty_beside_rows_apart(threads):
    rejected = np.zeros((2, 4, 4))[:, :-1]
    result = f.dpo_from_logits(
        np.zeros((2, 0, 4)), rejected, np.zeros((2, 0), int), np.zeros((2, 3), int), *np.zeros((2, 2)), 0.1,
        threads=threads,
    )  # fmt: skip
    assert np.isfinite(result.loss)
    assert result.d_chosen_logits.shape == (2, 0, 4)
