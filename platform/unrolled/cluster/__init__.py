"""Ray sessions, private or on a running cluster, and commands submitted to a cluster as jobs."""
