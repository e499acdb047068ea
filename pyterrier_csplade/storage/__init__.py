"""Files that are whole or absent: manifests, locks, temporary names, arrays on disk."""
