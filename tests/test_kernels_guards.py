"""Guards of speed that need no clock, over the table in kernel_cases.py: compilations, allocations, packed loops.

Each guard is also shown a kernel that breaks it.
"""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections import defaultdict
from types import FunctionType

import kernel_cases as table
import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.runtime import rtsys

from kernels import nn
from kernels._jit import PACKAGE, REASSOC, jit

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
CASE = pytest.mark.parametrize("case", table.CASES, ids=lambda case: case.name)


class Recorder:
    """Stands in for a jitted function: calls it, and keeps the arguments."""

    def __init__(self, dispatcher, calls):
        self.dispatcher, self.calls = dispatcher, calls

    def __call__(self, *arguments):
        self.calls.append((self.dispatcher, arguments))
        return self.dispatcher(*arguments)


def recorded(monkeypatch, function, *many_kwargs):
    """What a public function hands to jitted ones, for each of its arguments that it accepts."""
    calls = []
    module = sys.modules[function.__module__]
    for kwargs in many_kwargs:
        with monkeypatch.context() as patch:
            try:
                table.compute(function, kwargs)  # compile first: jitted code must not see a recorder
            except (TypeError, ValueError):
                continue
            for name, value in list(vars(module).items()):
                if isinstance(value, Dispatcher) and name.endswith("_jit"):
                    patch.setattr(module, name, Recorder(value, calls))
            table.compute(function, kwargs)
    return calls


# --- compilations


def variants(kwargs):
    """The same call as people write it: other dtypes, layouts and kinds of scalars, one change at a time."""

    def arrays(change, only="fiub"):
        return {
            name: change(value)
            if isinstance(value, np.ndarray)
            and value.ndim
            and value.dtype.kind in only
            and name not in table.IN_PLACE
            else value
            for name, value in kwargs.items()
        }

    yield kwargs
    yield arrays(np.ndarray.tolist)
    yield arrays(np.asfortranarray)
    yield arrays(lambda a: np.repeat(a, 2, axis=0)[::2])
    yield arrays(lambda a: a[..., ::-1].copy()[..., ::-1])
    for dtype in (np.float16, np.float32, np.float64, np.int64):
        yield arrays(lambda a, dtype=dtype: a.astype(dtype), only="f")
    for dtype in (np.int16, np.int32, np.uint8, np.float64):
        yield arrays(lambda a, dtype=dtype: a.astype(dtype), only="i")
    if "mask" in kwargs:
        yield {**kwargs, "mask": kwargs["mask"].astype(bool)}
        yield {**kwargs, "mask": kwargs["mask"].astype(np.int64)}
    for name, value in kwargs.items():
        if isinstance(value, float | int) and not isinstance(value, bool):
            for kind in (int, np.float32, np.float64, np.int64):
                yield {**kwargs, name: kind(value)}


def specialisations(calls):
    """(jitted function, type of its first array of numbers) -> the types of its arguments, a set a compilation."""
    found = defaultdict(set)
    for dispatcher, arguments in calls:
        types = tuple(numba.typeof(a) for a in arguments)
        first = first_of_numbers(types)
        found[dispatcher.py_func.__name__, first].add(types)
    return found


def first_of_numbers(types):
    """The first array, of other than tokens and the like, which are always int64."""
    return next(t for t in types if isinstance(t, numba.types.Array) and t.dtype != numba.int64)


def respecialised(calls):
    """Functions that are compiled more than once for a first array of one type, and with what."""
    return {key: types for key, types in specialisations(calls).items() if len(types) > 1}


@CASE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_way_to_call_compiles_once_a_type(case, dtype, monkeypatch):
    kwargs = case.make(np.random.default_rng(0), 3, 4, 5, dtype)
    calls = recorded(monkeypatch, case.function, *variants(kwargs))
    assert not respecialised(calls)
    for name in {dispatcher.py_func.__name__ for dispatcher, _ in calls}:
        # float32 and float64; where half precision is read as it is, its two kinds; rows together or apart.
        firsts = {first for function, first in specialisations(calls) if function == name}
        assert {str(first.dtype) for first in firsts} <= {"float32", "float64", "int16", "uint16"}
        assert {first.layout for first in firsts} <= {"C", "A"}


@jit
def scaled_jit(x, factor):
    return x[0] * factor


def scaled(x, factor):
    """A public function that forgot to convert a scalar."""
    return scaled_jit(np.asarray(x, np.float64).copy(), factor)


def test_an_unconverted_scalar_is_noticed(monkeypatch):
    kwargs = {"x": np.ones(3), "factor": 2.0}
    assert respecialised(recorded(monkeypatch, scaled, *variants(kwargs)))


# --- entries from Python


def test_python_calls_no_function_that_is_for_jitted_code_alone():
    """Such a call would end the process: there is nothing to call."""
    files = sorted(PACKAGE.glob("[!_]*.py")) + sorted(PACKAGE.glob("_[!_]*.py"))
    modules = [importlib.import_module(f"kernels.{file.stem}") for file in files]
    seen = set()
    for module in modules:
        for function in vars(module).values():
            if (
                isinstance(function, FunctionType) and "return" in function.__annotations__
            ):  # what is jitted has none
                used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
                called = {name for name, value in used.items() if isinstance(value, Dispatcher)}
                assert all(name.endswith("_jit") for name in called), function
                seen |= called
    assert {"token_logprobs_jit", "weights_jit", "fit_bradley_terry_jit"} <= seen


# --- allocations


def allocations(dispatcher, arguments):
    """Heap allocations of one call."""
    dispatcher(*arguments)
    before = rtsys.get_allocation_stats().mi_alloc
    dispatcher(*arguments)
    return rtsys.get_allocation_stats().mi_alloc - before


@CASE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_allocated(case, dtype, monkeypatch):
    kwargs = case.make(np.random.default_rng(1), 3, 4, 70, dtype)
    for dispatcher, arguments in recorded(monkeypatch, case.function, kwargs):
        assert allocations(dispatcher, arguments) == 0, dispatcher.py_func.__name__


def test_an_allocation_is_noticed():
    def doubled(x):
        scratch = x + x
        return scratch[0]

    assert (
        allocations(jit(doubled), (np.ones(3),)) == 2
    )  # the other one is how Numba wraps what Python hands over
    with pytest.raises(NumbaError):  # as the package's own functions are compiled
        jit(_nrt=False)(doubled)(np.ones(3))


# --- packed instructions, in the code that LLVM has optimised


ARITHMETIC = re.compile(
    r"= (?:tail )?(?:call .*@llvm\.)?(fadd|fsub|fmul|fdiv|fcmp|fma|fmuladd|maxnum|minnum|sqrt)\b"
)
PACKED = re.compile(r"<\d+ x (?:float|double)>")
LIBM = re.compile(r"call .*@(?:llvm\.)?((?:exp|expm1|exp2|log|log1p|log2|tanh|pow)f?)(?:\.v?[\w.]*)?\(")
CALLEE = re.compile(r'@"?([\w.$]+)"?\(')
LABEL = re.compile(r'^"?([\w.$-]+)"?:', re.MULTILINE)
TARGET = re.compile(r'label %"?([\w.$-]+)"?')


def optimised(dispatcher, signature):
    """LLVM's code of one compilation. `inspect_llvm` would be the public way, and is empty for cached code."""
    return str(dispatcher.overloads[signature].library._get_module_for_linking())


def innermost_loops(code):
    """The lines of each loop that has no other inside it, nor in a function that it calls.

    Which functions are inlined is LLVM's choice; what one that is compiled elsewhere does is not to be seen here.
    """
    loops = {
        CALLEE.search(function)[1]: list(own_loops(function))
        for function in re.findall(r"^define .*?^}", code, re.DOTALL | re.MULTILINE)
    }
    for lines in (lines for own in loops.values() for lines in own):
        called = {match[1] for line in lines if " call " in line and (match := CALLEE.search(line))}
        elsewhere = any(name.startswith("_ZN") and name not in loops for name in called)
        if not elsewhere and not any(loops.get(name) for name in called):
            yield lines


def own_loops(function):
    """The lines of each loop of one function that has no other inside it."""
    entry, *rest = LABEL.split(function)
    blocks = {"": entry, **dict(zip(rest[::2], rest[1::2], strict=True))}
    order = {label: i for i, label in enumerate(blocks)}
    before, after = defaultdict(set), {label: set(TARGET.findall(body)) for label, body in blocks.items()}
    for label, targets in after.items():
        for target in targets:
            before[target].add(label)
    edges = [
        (head, tail)
        for head, tails in before.items()
        for tail in tails
        if order[head] <= order[tail] and tail in reached(head, after)  # blocks stand in any order
    ]
    loops = [natural_loop(head, tail, before) for head, tail in edges]
    for loop in loops:
        if "" not in loop and not any(other < loop for other in loops):
            yield [line for label in loop for line in blocks[label].splitlines()]


def reached(block, after):
    """The blocks that can follow, itself among them."""
    found, waiting = set(), [block]
    while waiting:
        block = waiting.pop()
        if block not in found:
            found.add(block)
            waiting += after.get(block, ())
    return found


def natural_loop(head, tail, before):
    """The blocks from which `tail` is reached without passing `head`."""
    body, waiting = {head}, [tail]
    while waiting:
        block = waiting.pop()
        if block not in body:
            body.add(block)
            waiting += before[block]
    return body


def unpacked_loops(code):
    """The operations of each innermost loop that goes number by number, or calls the mathematics library.

    Of a vectorised loop LLVM keeps a scalar copy for what is left over: it has no operation that a packed loop lacks.
    Loops with less to do than the largest packed one are not what a kernel spends its time in.
    """
    packed, scalar, library = [], [], set()
    for loop in innermost_loops(code):
        arithmetic = [(match[1], PACKED.search(line)) for line in loop if (match := ARITHMETIC.search(line))]
        library |= {match[1] for line in loop if (match := LIBM.search(line))}
        group = packed if any(vector for _, vector in arithmetic) else scalar
        group.append([operation for operation, _ in arithmetic])
    largest = max(map(len, packed), default=0)
    twins = [set(operations) for operations in packed]
    alone = [loop for loop in scalar if len(loop) > largest and not any(set(loop) <= twin for twin in twins)]
    return sorted(library | {" ".join(sorted(set(loop))) for loop in alone})


# Kernels whose hot loops are not packed, and why; a new kernel belongs here only with a reason.
UNPACKED = {
    "gae_jit": "the recurrence, four rows side by side; its other loops spell their vectors out",
    "plackett_luce_jit": "the C library's exponential and logarithm",
    "group_advantages_jit": "sums in order, over few members",
    "rloo_advantages_jit": "sums in order, over few members",
}
KERNELS = sorted(table.jitted())
X86 = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"} or bool(numba.config.BOUNDSCHECK),
    reason="packed loops are known for x86-64 only, and checks of bounds undo them",
)


@X86
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KERNELS)
def test_hot_loops_are_packed(name, dtype, compiled):
    if name in UNPACKED:
        pytest.skip(f"known not to be: {UNPACKED[name]}")
    dispatcher = table.jitted()[name]
    signatures = [s for s in dispatcher.signatures if str(first_of_numbers(s).dtype) == dtype]
    assert signatures
    for signature in signatures:
        assert not unpacked_loops(optimised(dispatcher, signature)), signature


@pytest.fixture(scope="module")
def compiled():
    """Every kernel compiled, or loaded, in both precisions."""
    for dtype in (np.float32, np.float64):
        for case in table.CASES:
            table.compute(case.function, case.make(np.random.default_rng(0), 3, 4, 5, dtype))
        panels = np.empty(nn.panels_shape(3, 4, np.dtype(dtype).itemsize), dtype)
        # For these two the policy's passes alone ask.
        nn.panels_jit(np.ones((3, 4), dtype), nn.TIMES, panels)
        nn.gelu_over_jit(np.ones(4, dtype), np.ones((3, 4), dtype))


def sum_of_exp(x):
    total = 0.0
    for n in range(x.shape[0]):
        total += np.exp(x[n])
    return total


def recurrence(x):
    value = x.dtype.type(0.0)
    for n in range(x.shape[0]):
        value = value * x[n] + x[n]
    return value


def running_maximum(x):
    top = x[0]
    for n in range(x.shape[0]):
        top = x[n] if x[n] > top else top
    return top


def in_two_passes(x):
    """One packed, one not: the first must not hide the second."""
    for n in range(x.shape[0]):
        x[n] = x[n] * x[n]
    return running_sum(x)


@jit
def running_sum(x):
    total = x.dtype.type(0.0)
    for n in range(x.shape[0]):
        total += x[n] / (total + x[n])
    return total


def squares(x):
    for n in range(x.shape[0]):
        x[n] = x[n] * x[n] + x[n]


def sum_of_squares(x):
    total = x.dtype.type(0.0)
    for n in range(x.shape[0]):
        total += x[n] * x[n]
    return total


@X86
@pytest.mark.parametrize("function", [sum_of_exp, recurrence, running_maximum, in_two_passes, sum_of_squares])
def test_an_unpacked_loop_is_noticed(function):
    assert unpacked_loops(code_of(jit(function)))


@X86
@pytest.mark.parametrize("dispatcher", [jit(squares), jit(fastmath=REASSOC)(sum_of_squares)])
def test_a_packed_loop_passes(dispatcher):
    assert not unpacked_loops(code_of(dispatcher))


def code_of(dispatcher):
    dispatcher(np.ones(100, np.float32))
    return optimised(dispatcher, dispatcher.signatures[0])
