"""What tests share: a running fabric, waiting for a condition, free ports."""
