"""Measuring a model: every sample of a validation set exactly once, on any number of ranks."""
