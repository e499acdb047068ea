"""The command ``pyterrier-csplade``."""
