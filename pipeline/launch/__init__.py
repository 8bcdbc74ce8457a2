"""Before a run and around it: checks, what it will take (plan.py), the ranks of one machine, SLURM. Torch-free."""
