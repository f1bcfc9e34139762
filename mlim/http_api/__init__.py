"""The HTTP routes of a served version beside MLflow's: items as a shop has them in, scores, vectors, explanations out.

The package is stored with every version and runs inside the scoring server (mlim/scoring_server.py).
"""
