"""The cache: two tiers, keys that bind a value to what made it, and one computation for requests that are alike."""
