"""Annotations beside the items of a catalog: boxes, captions, questions, statements (docs/scenes.md)."""
