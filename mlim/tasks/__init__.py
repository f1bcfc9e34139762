"""What networks are trained on: examples, targets, heads, losses as sums and counts, and figures that judge them."""
