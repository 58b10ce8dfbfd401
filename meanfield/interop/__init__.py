"""Bridges to the tools users already have: NumPyro, ArviZ, scikit-learn."""
