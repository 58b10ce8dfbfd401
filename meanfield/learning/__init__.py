"""Generalized back-propagation: objective, parametrisations, and the training loop."""
