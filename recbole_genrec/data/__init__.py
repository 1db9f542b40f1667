"""What the user brings: interactions, item features and the teacher trained on them."""
