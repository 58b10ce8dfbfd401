"""What a trained ensemble says: predictive distributions, uncertainty, calibration."""
