"""Entropic complexity of layers and the effective dimension of features."""
