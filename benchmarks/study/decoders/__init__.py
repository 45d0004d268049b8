"""Question: how many tokens can a forward unmask before the answers get worse, by which decoder?"""
