"""Learned multi-graph convolution, and what a model keeps of it."""
