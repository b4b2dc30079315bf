"""The service and batch translation on a Ray cluster."""
