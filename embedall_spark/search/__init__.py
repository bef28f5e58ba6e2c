"""Nearest neighbours and analogies over any VECTORS table."""
