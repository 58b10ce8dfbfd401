"""Ensembles as ArviZ inference data."""
