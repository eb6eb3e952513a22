"""What the authors wrote for training: words that mean the same in many languages, and prompts with their labels."""
