"""The doors to the outside: command line, HTTP service, DICOM node."""
