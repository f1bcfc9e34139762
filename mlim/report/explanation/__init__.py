"""Why two items match or not, for a person: in sentences, and as a page with a waterfall and both pictures."""
