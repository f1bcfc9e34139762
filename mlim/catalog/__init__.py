"""What a catalog is: its description, its items, how values are compared and texts cleaned, the quarantine."""
