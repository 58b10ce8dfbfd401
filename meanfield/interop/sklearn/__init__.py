"""scikit-learn estimators and data frames."""
