"""From image files and a table to a checked cohort and memory-mapped shards."""
