"""A run's folder, and what is written there and said to the operator: journal, holes, waiting, verdicts."""
