"""What precomputing costs live traffic, and how soon an answer is there that it has made ready."""
