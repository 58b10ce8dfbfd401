"""Renormalization in depth: phases, fixed points, decimation, flow."""
