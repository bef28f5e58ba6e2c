"""Fitting P and Q: one pass for the covariances, CCA in closed form, a contrastive refinement, model selection."""
