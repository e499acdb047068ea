"""What tests need from inside the package: one module for each folder."""
