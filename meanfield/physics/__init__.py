"""Instruments of statistical mechanics for reading a trained network."""
