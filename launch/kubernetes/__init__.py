"""The JobSet manifest and its renderer."""
