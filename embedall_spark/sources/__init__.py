"""From the outside world to tidy tables, with rejects."""
