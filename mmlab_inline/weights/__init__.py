"""Weights from elsewhere: fetched, recognised and converted."""
