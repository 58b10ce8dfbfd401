"""The version of this package, and the name under which it is installed."""

# The index holds another author's "meanfield"; the import is `meanfield` all the same.
DISTRIBUTION = "meanfield-jax"
VERSION = "0.2.0"
