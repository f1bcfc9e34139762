"""Missing and doubtful values of an attribute, from the text and the picture, by a pre-trained model."""
