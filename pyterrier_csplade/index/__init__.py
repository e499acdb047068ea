"""The Terrier index of impacts: how it is built, checked, opened and searched."""
