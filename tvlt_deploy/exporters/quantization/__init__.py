"""Calibration of int8 and fp8: observers, histograms, SmoothQuant and QDQ nodes."""
