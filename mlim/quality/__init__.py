"""How good a catalog's data is: measures of items, drift between versions, near copies, what a person accepted."""
