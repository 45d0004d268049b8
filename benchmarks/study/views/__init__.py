"""The study of views: the variance and bias of log p at equal forwards."""
