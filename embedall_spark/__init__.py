"""Embed all the things: words, sequences, graphs and images, as a distributed batch workflow on Spark."""

__version__ = "0.1.0"
