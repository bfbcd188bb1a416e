"""What the device finds out about the machine that it runs on."""
