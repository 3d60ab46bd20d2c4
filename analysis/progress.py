"""A progress bar over named, nested steps, with the time that each took."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Steps:
    """Named steps under one progress bar, each timed without the steps inside it.

    Args:
        names: All steps that may come. Those that do not are counted by `finish`.
        visible: Whether to show the bar.
    """

    def __init__(self, names: Collection[str] = (), *, visible: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._remaining = set(names)
        self._bar = tqdm(total=len(self._remaining), unit="step", disable=not visible)
        # Of each open step its name and the seconds of the steps inside it.
        self._open: list[tuple[str, list[float]]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Show and time a step, and count it afterwards."""
        started = time.perf_counter()
        self._open.append((name, []))
        self._bar.set_description(name)
        try:
            yield
        finally:
            total = time.perf_counter() - started
            _, inner = self._open.pop()
            if self._open:
                outer, seconds = self._open[-1]
                seconds.append(total)
                self._bar.set_description(outer)
            self.seconds[name] = self.seconds.get(name, 0.0) + total - sum(inner)
            self.finish([name])

    def finish(self, names: Collection[str]) -> None:
        """Count steps as done, whether they came or not."""
        done = self._remaining & set(names)
        self._remaining -= done
        self._bar.update(len(done))

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()
