"""The page on which a person says whether the two items of a pair match, one pair after another, with the keyboard."""
