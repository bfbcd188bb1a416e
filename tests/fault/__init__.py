"""What breaks, and what overloads: each promise beside a demonstration of what happens without what keeps it."""
