"""Operators: custom ones, which run Python, and ones composed of MXNet's built-in operators."""
