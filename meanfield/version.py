"""The version of this package, and the name under which it is installed."""

# On the package index, the name "meanfield" belongs to another package.
DISTRIBUTION = "meanfield-jax"
VERSION = "0.2.0"
