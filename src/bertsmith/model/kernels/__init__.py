"""Attention for the CPU in C++, compiled on first use; `supports` tells whether it is there."""

from bertsmith.model.kernels.attention import attend, supports

__all__ = ["attend", "supports"]
