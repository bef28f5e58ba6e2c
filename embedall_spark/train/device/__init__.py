"""Training on a GPU: windows, kernels and the worker's loop, with the contract that they have on the CPU."""
