"""Who deserves the credit: connection labels, Shapley values, coalitions."""
