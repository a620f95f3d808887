"""Hosted providers that edits are passed on to: a folder each, one interface, and the runner that drives them."""
