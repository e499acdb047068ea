"""The language model as an encoder of sparse vectors."""
