"""One small task for each peer, as its manual says to write it. These modules run in the peers' environments."""
