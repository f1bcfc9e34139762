"""The page of the matches of a catalog: groups and doubtful pairs, with images, for a person who acts on them."""
