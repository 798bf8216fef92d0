"""What the CPU computes in C++, compiled on first use; `supports` tells whether it is there."""

from bertsmith.model.kernels.activation import gelu
from bertsmith.model.kernels.attention import attend
from bertsmith.model.kernels.calling import supports
from bertsmith.model.kernels.norm import normalize
from bertsmith.model.kernels.products import linear, multiplies
from bertsmith.model.kernels.vocabulary_loss import vocabulary_loss

__all__ = ["attend", "gelu", "linear", "multiplies", "normalize", "supports", "vocabulary_loss"]
