"""The dataset card: what is in a dataset, as a page for people and as JSON for programs."""
