"""Graphs in files, and random walks over them."""
