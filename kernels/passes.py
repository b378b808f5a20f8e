"""Forward and backward through the blocks of a pre-norm transformer, one call each: for `rlhfbench.policies`.

Rows are tokens without padding, first those of prompts, then those of responses (`packing`). The last block has no use
for a prompt beyond its keys and values, so only responses pass it. Kernels are called through their addresses
(`_linked`): these loops are compiled without them.
"""

from __future__ import annotations

from ._backward import backward
from ._forward import forward
from ._tensors import CHUNK, Back, Room, Rows, Tensors

__all__ = ["CHUNK", "Back", "Room", "Rows", "Tensors", "backward", "forward"]
