"""A context that silences warnings of scikit-learn, which would print through a progress bar."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore fits that did not converge, and doubts whether many classes are classes.

    Results say themselves whether a fit converged, and labels are classes, however many there are.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield
