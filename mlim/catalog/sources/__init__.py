"""The sources of a catalog, all behind one interface (`base.Source`)."""
