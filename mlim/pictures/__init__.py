"""From a reference to a picture: folders, archives, Parquet files, the web, and decoding in a sandbox."""
