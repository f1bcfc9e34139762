"""Image sides: from pixels to the vectors that a system reads of a picture."""
