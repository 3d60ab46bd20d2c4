"""The codes of a trained VAE as a representation: use, continuity, robustness, foreign data.

Pure functions from codes, labels and data to numbers with a reading; `section` joins them for a
diagnosis.
"""
