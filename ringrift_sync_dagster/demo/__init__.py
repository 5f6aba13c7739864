"""An embedded cluster on loopback: real agents, real databases, real traffic, and a verdict on what arrived."""
