"""What a trained VAE's codes are worth as a representation: useful, continuous, robust, and apart from foreign data.

Pure functions from codes, labels and data to numbers with a reading; `section` joins them for a diagnosis.
"""
