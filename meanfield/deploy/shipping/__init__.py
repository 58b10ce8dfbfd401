"""From drawn sub-networks to a folder of verified files."""
