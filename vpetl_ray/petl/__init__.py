"""Parameter-efficient methods: their settings, their size, and how they enter a frozen model."""
