"""Korean words: texts are taken apart into terms, which searches compare.

Everything but the analyzer, which loads Kiwi, is pure. Where the terms are stored and searched is in `reviews` and
`search`.
"""
