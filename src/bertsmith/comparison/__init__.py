"""What BERT is worth on the user's rows: beside it, the models that one would take without it."""
