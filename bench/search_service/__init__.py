"""Measures searches through the gateway, in stores of many reviews."""
