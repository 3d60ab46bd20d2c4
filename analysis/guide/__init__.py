"""The quality of the guide: PSIS diagnostics."""
