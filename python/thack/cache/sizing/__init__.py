"""What a cache would keep and cost, before it is written."""
