"""Calibration of forecasts, and simulation-based calibration."""
