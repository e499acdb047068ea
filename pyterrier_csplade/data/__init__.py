"""Texts by name: files, directories and datasets of documents, queries and judgements."""
