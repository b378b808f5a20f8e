# mypy: allow-untyped-defs, allow-untyped-calls
"""Calls of one compiled function by another through its address, so that its machine code is made once.

Numba hands a function's code to each of its callers, which compile it once more, together with theirs. That is what
small functions are for; of a caller that has many large ones, such as a whole decoding loop, it would be most of the
compilation. `call` finds the code where it is already. Addresses are of one process: whoever calls from Python looks
them up (`address`) for the types that the caller will use, and hands them over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable
from numba.np.numpy_support import from_dtype

from ._check import Array

__all__ = ["Call", "address", "addresses", "arrays", "call"]

Call: TypeAlias = tuple[Any, tuple[Any, ...]]
"""A jitted function, and the Numba types of its arguments."""

_LOOKED_UP: set[Any] = set()
"""Functions and types of which somebody has the address."""


def address(function: Any, kinds: tuple[Any, ...]) -> int:
    """Where the machine code of a jitted function lies that takes arguments of these Numba types."""
    if not hasattr(function, "overloads"):
        return 0  # NUMBA_DISABLE_JIT
    function.compile(kinds)
    _LOOKED_UP.add((function, kinds))
    compiled = function.overloads[kinds]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


@cache
def addresses(called: Callable[[Any], tuple[Call, ...]], dtype: Any) -> Array:
    """Where the functions are that `called` names for arrays of this type."""
    found = called(dtype)
    if dtype.hasobject:
        return np.zeros(len(found), np.int64)
    return np.array([address(function, kinds) for function, kinds in found])


def arrays(dtype: Any) -> tuple[Any, ...]:
    """Numba types: vectors and matrices of these numbers, vectors and matrices of whole ones, and a whole number."""
    x = types.pyobject if dtype.hasobject else from_dtype(dtype)
    return *(types.Array(kind, ndim, "C") for kind in (x, types.int64) for ndim in (1, 2)), types.int64


def call(function, address, arguments):
    """What the function returns for a tuple of arguments.

    `address` has to be that for their types: for types that nobody looked up this is not compiled.
    """
    return function(*arguments)


def _result(function, kinds):
    return function.dispatcher.overloads[kinds].signature.return_type


@type_callable(call)
def _type_call(context):
    def typed(function, address, arguments):
        if not isinstance(function, types.Dispatcher):
            return None
        kinds = tuple(map(types.unliteral, arguments))
        return _result(function, kinds) if (function.dispatcher, kinds) in _LOOKED_UP else None

    return typed


@lower_builtin(call, types.Dispatcher, types.Integer, types.BaseTuple)
def _lower_call(context, builder, sig, args):
    function, _, arguments = sig.args
    kinds = tuple(map(types.unliteral, arguments))
    result = _result(function, kinds)
    given = [
        context.cast(builder, value, kind, wanted)
        for value, kind, wanted in zip(cgutils.unpack_tuple(builder, args[2]), arguments, kinds, strict=True)
    ]
    code = context.call_conv.get_function_type(result, kinds).as_pointer()
    status, value = context.call_conv.call_function(
        builder, builder.inttoptr(args[1], code), result, kinds, given
    )
    with cgutils.if_unlikely(builder, status.is_error):
        context.call_conv.return_status_propagate(builder, status)
    return value
