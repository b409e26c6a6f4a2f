"""Sentiment of Korean texts: a BERT classifier in half precision, served over HTTP."""
