"""The embedded catalog: a small shop, drawn and written by this package (docs/embedded-catalog.md)."""
