"""What breaks under a cluster, done to real processes; each beside a demonstration of what it does without the cure."""
