"""Items on disk: writing and verifying shards, and random access to what they hold."""
