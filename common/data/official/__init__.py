"""Official data sets: where they come from, fetched and brought into the layout that configs read."""
