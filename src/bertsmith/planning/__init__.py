"""What a pre-training run would take, before it is made."""
