"""What is set from outside: the inventory, the environment, the clocks and the keys; nobody else reads them."""
