"""Checks of a trained model: numbers and figures, as pure functions of arrays.

A function that computes numbers takes arrays and returns a small result. A function that starts
with `plot_` returns a `matplotlib.figure.Figure` that pyplot does not track. `analysis.subject`
and `analysis.run_figures` draw the arrays from a trained VAE.
"""
