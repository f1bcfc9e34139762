"""From a source's rows to shards: what the cells rule out, the cut into shards, the engine that builds them."""
