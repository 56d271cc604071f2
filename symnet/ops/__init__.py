"""Operators: the custom ones, which run Python, and those put together from MXNet's own."""
