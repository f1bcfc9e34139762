"""The Prefect flows: the only package that imports Prefect; the work itself lies in the steps."""
