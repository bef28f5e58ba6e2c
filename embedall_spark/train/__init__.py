"""The distributed trainer: plan, windows, block rotation, checkpoints, kernels."""
