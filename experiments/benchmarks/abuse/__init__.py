"""Malformed and hostile requests, made from images and a seed."""
