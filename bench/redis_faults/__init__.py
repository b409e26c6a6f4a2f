"""What a sick Redis costs requests, and how soon its loss and its return are noticed."""
