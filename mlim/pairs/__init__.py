"""Pairs for fine-tuning (the paper's task CM): labelled by the type of variation, split without leaks, audited.

Functions of the accepted items: no files are written here. docs/pairs.md describes the language that decides.
"""
