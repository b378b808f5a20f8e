"""What a transformer needs: embedding, layer norm, GELU, causal attention, their gradients, products of narrow layers.

Rows are tokens, channels last: x (..., C). float32 and float64 stay what they are; what stands beside the first array
follows its precision. Each function takes `out`, for its result or the first of several, which must not overlap an
input; gradients are overwritten. Sequences of attention lie as spans of rows, without padding between them: `spans_of`
makes them of a padded batch. Twins: `reference_nn`.

The `_jit` forms take rows (N, C) and check nothing; gradients of parameters accumulate there, and some write over an
input, as each says: `_blocks`, `_attention`, `_attention_gradient`, `_attention_step`, `_products`.
"""

from __future__ import annotations

from ._attention import attention_jit
from ._attention_gradient import attention_backward_jit
from ._attention_step import attention_step_jit, fill_cache_jit, step_room
from ._blocks import (
    draw_jit,
    embedding_backward_jit,
    embedding_jit,
    gelu_backward_jit,
    gelu_jit,
    gelu_over_jit,
    layer_norm_backward_jit,
    layer_norm_jit,
    residual_norm_jit,
)
from ._fours import keys_shape
from ._nn_attention import Attention, attention, attention_backward, attention_step, fill_cache
from ._nn_gelu import GELU, GELUGradients, gelu, gelu_backward
from ._nn_norm import (
    LayerNorm,
    LayerNormGradients,
    ResidualNorm,
    ResidualNormGradients,
    layer_norm,
    layer_norm_backward,
    residual_norm,
    residual_norm_backward,
)
from ._nn_product import product
from ._nn_tokens import Draw, EmbeddingGradients, draw, embedding, embedding_backward
from ._products import PACKED, PANEL, TIMES, TIMES_TURNED, TURNED_TIMES, panels_jit, panels_shape, product_jit
from ._sampling import sample_scratch
from ._spans import spans_of
from ._turned import turned_shape, with_room

__all__ = [
    "GELU",
    "PACKED",
    "PANEL",
    "TIMES",
    "TIMES_TURNED",
    "TURNED_TIMES",
    "Attention",
    "Draw",
    "EmbeddingGradients",
    "GELUGradients",
    "LayerNorm",
    "LayerNormGradients",
    "ResidualNorm",
    "ResidualNormGradients",
    "attention",
    "attention_backward",
    "attention_backward_jit",
    "attention_jit",
    "attention_step",
    "attention_step_jit",
    "draw",
    "draw_jit",
    "embedding",
    "embedding_backward",
    "embedding_backward_jit",
    "embedding_jit",
    "fill_cache",
    "fill_cache_jit",
    "gelu",
    "gelu_backward",
    "gelu_backward_jit",
    "gelu_jit",
    "gelu_over_jit",
    "keys_shape",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_backward_jit",
    "layer_norm_jit",
    "panels_jit",
    "panels_shape",
    "product",
    "product_jit",
    "residual_norm",
    "residual_norm_backward",
    "residual_norm_jit",
    "sample_scratch",
    "spans_of",
    "step_room",
    "turned_shape",
    "with_room",
]
