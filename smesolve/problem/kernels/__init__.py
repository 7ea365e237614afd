"""Compiled kernels: gradients, noise and steps of two-layer networks under dropout, one path at a time."""
