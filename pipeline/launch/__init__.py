"""Starting a run: checks before anything is started, and the ranks of one machine. Torch-free."""
