"""From documents to encoded sequences, a vocabulary and windows."""
