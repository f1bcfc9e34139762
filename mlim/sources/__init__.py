"""Readers of catalogs, all behind one interface (`base.Source`), and what fetches and builds public catalogs."""
