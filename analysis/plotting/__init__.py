"""Figures that several checks share."""
