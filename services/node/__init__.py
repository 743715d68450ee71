"""The DICOM node (C-STORE, DICOMweb): not built yet; its place in the layers is fixed here."""
