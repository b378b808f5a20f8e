"""What a transformer needs: the jitted forms, for `rlhfbench.policies`.

Rows are tokens: x (N, C). `_blocks` has embedding, layer norm with the residual, GELU in its tanh form (PyTorch's
`gelu(approximate="tanh")`) and sampling; `_attention` has attention of whole sequences and of one more token, and
`_attention_gradient` its gradient, `_products` the matrix products of narrow layers. Parameter gradients accumulate;
what else is written each function says. Twins: `reference_nn`.
"""

from __future__ import annotations

from ._attention import attention_jit, attention_step_jit, fill_cache_jit
from ._attention_gradient import attention_backward_jit
from ._blocks import (
    draw_jit,
    embedding_backward_jit,
    embedding_jit,
    gelu_backward_jit,
    gelu_jit,
    layer_norm_backward_jit,
    layer_norm_jit,
    residual_norm_jit,
)
from ._products import PANEL, TIMES, TIMES_TURNED, TURNED_TIMES, product_jit
from ._sampling import sample_scratch

__all__ = [
    "PANEL",
    "TIMES",
    "TIMES_TURNED",
    "TURNED_TIMES",
    "attention_backward_jit",
    "attention_jit",
    "attention_step_jit",
    "draw_jit",
    "embedding_backward_jit",
    "embedding_jit",
    "fill_cache_jit",
    "gelu_backward_jit",
    "gelu_jit",
    "layer_norm_backward_jit",
    "layer_norm_jit",
    "product_jit",
    "residual_norm_jit",
    "sample_scratch",
]
