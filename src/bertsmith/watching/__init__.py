"""A run while it goes: its log as it grows, a page of curves, TensorBoard's files."""
