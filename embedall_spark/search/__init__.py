"""Nearest neighbors and analogies over any VECTORS table."""
