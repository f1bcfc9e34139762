"""Scenes: a second embedded catalog whose pictures show several products (docs/scenes.md)."""
