"""What dmpo is compared with: the published algorithm, and the same jobs done by other packages."""
