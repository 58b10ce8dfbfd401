"""Writing a network in a format, loading it back, comparing."""
