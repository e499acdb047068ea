"""What several test files share: models, collections, stand-ins for servers and packages, processes."""
