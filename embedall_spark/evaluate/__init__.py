"""Quality of vectors against published evaluation sets."""
