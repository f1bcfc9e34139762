"""Examples of each fine-tuning task besides matching, right and wrong, from what its variants scored."""
