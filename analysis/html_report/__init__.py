"""A run, or a comparison of runs, as one self-contained HTML page that starts with a verdict."""
