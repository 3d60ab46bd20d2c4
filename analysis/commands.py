"""The commands that messages name. RUN and DATA are placeholders; `diagnose.py` replaces RUN."""

ANNEALING = "python scripts/evaluate.py RUN --methods annealing"
GAPS = "python scripts/evaluate.py RUN --methods gaps"
GUIDE = "python scripts/diagnose.py RUN --only guide"
AGAIN = "python scripts/diagnose.py RUN --only SECTION"
MORE_DRAWS = f"{GUIDE} --samples 10000"
REPRESENTATION = "python scripts/diagnose.py RUN --only representation"
FOREIGN = f"{REPRESENTATION} --against DATA"
