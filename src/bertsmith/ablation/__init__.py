"""The paper's questions about pre-training, asked of the user's text."""
