"""Runs and preparations as SLURM jobs: submitting them, looking after them, telling what they do. Torch-free."""
