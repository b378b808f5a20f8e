# mypy: allow-untyped-calls
"""How functions are compiled that only jitted code calls: to LLVM's code, which their callers take in, and no further.

Numba makes machine code of them as well, which nobody runs. What they lack then is what Python would need: an entry,
and an environment, which is not there either when a caller comes from the cache. They are still optimised before they
are taken in: left to the callers, some loops (of `value_clip`, `dpo`, `bradley_terry`) took a third longer.
"""

from __future__ import annotations

from typing import Any

from numba.core import codegen, compiler, compiler_machinery, typed_passes

__all__ = ["Inlaid"]


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


class Inlaid(compiler.CompilerBase):
    """Numba's compiler, with that library."""

    def define_pipelines(self) -> list[Any]:
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_TakeLibrary, typed_passes.IRLegalization)
        passes.finalize()
        return [passes]
