"""Alibaba's DashScope (Model Studio)."""
