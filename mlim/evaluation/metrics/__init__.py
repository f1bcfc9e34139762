"""What models are judged by: from weights of the judged examples to figures, one module per kind of answer."""
