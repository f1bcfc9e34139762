"""The embedded catalog: a small shop, drawn and written by this package (docs/embedded-catalog.md)."""

from mlim.catalog.synthetic.generate import synthesize

__all__ = ["synthesize"]
