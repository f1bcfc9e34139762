"""The stack: the matcher together with systems that learn no representation, combined on the validation pairs."""
