# mypy: allow-untyped-calls
"""How functions are compiled: as Numba does it, without looking for what it has found before.

For the types of a call Numba asks all that it knows of an operator, several times over, whatever it found for the same
types before: with what else came of it that was a fifth of all compiling. `_Remembering` keeps its answers.

`Inlaid` is for functions that only jitted code calls: they are compiled to LLVM's code, which their callers take in,
and no further. Numba makes machine code of them as well, which nobody runs. What they lack then is what Python would
need: an entry, and an environment, which is not there either when a caller comes from the cache. They are still
optimised before they are taken in: left to the callers, some loops (of `value_clip`, `dpo`, `bradley_terry`) took a
third longer.
"""

from __future__ import annotations

from typing import Any

from numba.core import codegen, compiler, compiler_machinery, typed_passes, types, untyped_passes
from numba.core.typing.context import Context

__all__ = ["Entry", "Inlaid"]

_found: dict[Any, Any] = {}
"""By function and types of the arguments: Numba's signature."""


class _Remembering(Context):
    """Numba's context, all of whose state it shares, with a memory for calls of what is not jitted itself."""

    def __init__(self, context: Any) -> None:
        self.__dict__ = context.__dict__

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        known = func if isinstance(func, types.Type) else self._lookup_global(func)
        if kws or not isinstance(known, types.Function):
            return super().resolve_function_type(func, args, kws)
        key = known, tuple(args)
        found = _found.get(key)
        if found is None:
            found = _found[key] = super().resolve_function_type(func, args, kws)
        return found


@compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
class _Types(typed_passes.NopythonTypeInference):
    """Numba's type inference in that context."""

    _name = "types"

    def run_pass(self, state: Any) -> bool:
        own = state.typingctx
        state.typingctx = _Remembering(own)
        try:
            changed: bool = super().run_pass(state)
        finally:
            state.typingctx = own
        return changed


_FOR_NOTHING = {
    untyped_passes.InlineClosureLikes,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
}
"""Passes for closures, comprehensions and array expressions, which kernels have none of."""


class Entry(compiler.CompilerBase):
    """Numba's compiler, with those types and without those passes."""

    def define_pipelines(self) -> list[Any]:
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        ours = {typed_passes.NopythonTypeInference: _Types}
        kept = [(kind, text) for kind, text in passes.passes if kind not in _FOR_NOTHING]
        passes.passes = [(ours.get(kind, kind), text) for kind, text in kept]
        self.add_passes(passes)
        passes.finalize()
        return [passes]

    def add_passes(self, passes: Any) -> None:
        """Nothing else."""


class _Library(codegen.JITCodeLibrary):
    """Code that waits for a caller to take it in."""

    def _finalize_final_module(self) -> None:
        """Leave out what hands the code to LLVM's engine, where it would become machine code."""
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """What Numba asks to set the function's environment, in machine code that is not there."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        pass


@compiler_machinery.register_pass(mutates_CFG=False, analysis_only=True)
class _TakeLibrary(compiler_machinery.AnalysisPass):
    """Names the library that the next pass, lowering, would otherwise make."""

    _name = "take_library"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class Inlaid(Entry):
    """That compiler, with that library."""

    def add_passes(self, passes: Any) -> None:
        passes.add_pass_after(_TakeLibrary, typed_passes.IRLegalization)
