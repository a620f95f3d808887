"""Replicate: official models, versions of others, and an operator's own deployments."""
