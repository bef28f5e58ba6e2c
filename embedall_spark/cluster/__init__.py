"""Clusters of any VECTORS table."""
