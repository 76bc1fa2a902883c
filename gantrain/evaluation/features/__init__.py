"""Extractors: networks that map images to features, for metrics."""
