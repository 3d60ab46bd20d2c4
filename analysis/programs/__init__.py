"""Numbers and figures of programs."""
