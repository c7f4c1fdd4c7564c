"""What makes the model fast on a CPU in float32: padding removal, and kernels for what torch does slowly there.

`is_used` is the one switch between this package and the plain path of `cmal/model/transformer.py`; set `ENABLED` to False
to compare the two.
"""

from cmal.model.cpu.kernels import dropout, is_used, lookup
from cmal.model.cpu.unpadding import UnpaddedBatch, layer_forward, stack_forward

__all__ = ["UnpaddedBatch", "dropout", "is_used", "layer_forward", "lookup", "stack_forward"]
