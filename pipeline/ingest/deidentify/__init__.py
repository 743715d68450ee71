"""Clean copies of DICOM objects and photographs for research, by PS3.15 Annex E."""
