"""What holds for all tests."""

from hypothesis import settings

# A busy machine may take long over any example, and that is no fault of the code.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")
