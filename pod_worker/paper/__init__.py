"""From recorded results to a paper in which every number traces."""
