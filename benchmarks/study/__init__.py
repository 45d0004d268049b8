"""The paper's claims in miniature: one objective, group size, decoder or reuse against another on embedded tasks."""
