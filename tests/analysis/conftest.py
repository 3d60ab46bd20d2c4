"""What the figures' tests share."""

import pytest


@pytest.fixture
def words():
    """Draw a figure and return its axes and all that is written on it."""

    def read(figure):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
        return figure.axes, " | ".join(filter(None, texts))

    return read
