"""The exact study: completions are few enough to list, so that policy and target are both known exactly."""
