"""MLIM: masked language and image modeling for product catalogs."""
