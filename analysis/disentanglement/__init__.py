"""Disentanglement: whether each coordinate of the code follows one factor of the data."""
