"""The version of this package, and the name under which it is installed."""

# In the package index "meanfield" is another package; this one is imported as that too.
DISTRIBUTION = "meanfield-jax"
VERSION = "0.2.0"
