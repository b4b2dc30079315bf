"""Requests that are malformed or hostile, made from pictures and a seed."""
