"""Comparison methods: one file each, and the descriptors, normalisations and classifiers that they share."""
