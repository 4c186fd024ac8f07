"""Syllables that made-up words of synthetic data consist of."""

SYLLABLES = ("ba", "do", "ki", "lu", "mo", "na", "pe", "ri", "so", "tu")
