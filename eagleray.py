"""The public face for users' code."""
