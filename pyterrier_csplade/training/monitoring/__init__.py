"""What is watched while a model trains: cockpit, pre-flight checks, validation, curves."""
