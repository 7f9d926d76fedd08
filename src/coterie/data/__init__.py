"""Where images come from and what is seen of them."""
