"""The broken rows of the embedded catalog end in quarantine, each for its own reason; the others do not."""
