"""Completions of the policy: drawn, rewarded, scored, kept, masked into views."""
