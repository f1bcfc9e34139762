"""PR-AUC with its uncertainty, baselines, probes."""
