"""The only room that knows Prefect: wiring, nothing else."""
