"""A network as a short list of portable operations."""
