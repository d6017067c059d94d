"""The way to Ray: a session of our own or on a running cluster, and commands sent to a cluster as jobs."""
