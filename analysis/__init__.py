"""What a trained model is worth: numbers and figures, as pure functions of arrays.

A function that returns numbers takes arrays and returns a small named result. A function that
starts with `plot_` returns a `matplotlib.figure.Figure`, made apart from pyplot so that nothing
stays behind. `analysis.plotting.figures` is the thin layer that draws the arrays from a trained VAE.
"""
