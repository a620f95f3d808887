"""Providers on 127.0.0.1 for tests: real sockets, faults by script, and the bill that each would write."""
