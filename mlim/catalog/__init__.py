"""From raw sources to items: description, table, pictures, ingest, quarantine, random access."""
