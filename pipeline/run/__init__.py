"""A run's folder and the processes that work in it."""
