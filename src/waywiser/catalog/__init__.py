"""What is known about models: prices, context windows, abilities; and how their tokens are counted."""
