"""How much each key may use in a minute."""
