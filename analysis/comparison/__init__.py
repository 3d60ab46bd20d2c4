"""Comparison of models on held-out data."""
