"""What operators see of the service: whether it's healthy, and how it answers when it isn't."""
