"""What batch scoring is made of."""
